"""What the teacher reads and how its answer is understood.

All wording comes from prompts.toml. An answer comes in one of two forms: a JSON object, or text between
tags that carry a nonce, which data cannot fake. Whatever a teacher writes, parsing ends in a proposal
or in a status; it never raises, and never lets words of the prompt into a pair.
"""

import functools
import itertools
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from state.records import Pair, Phase, content_hash

__all__ = [
    "ParseFailure",
    "Proposal",
    "answer_schema",
    "build_messages",
    "clean_text",
    "hash_messages",
    "make_nonce",
    "parse_answer",
]

ParseFailure = Literal["unparsable", "unchanged", "cut"]

# What an answer holds besides the critique: key of the JSON form -> tag of the tagged form.
_FIELDS: dict[Phase, dict[str, str]] = {
    "instruction": {"instruction": "new-instruction", "response": "new-response"},
    "response": {"response": "new-response"},
}
# No text of SQLite, JSON or a tokenizer may hold these.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# Shorter lines of the prompt may well occur in an honest answer.
_TELLTALE_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Proposal:
    """A parsed answer: the teacher's critique and the pair it would put in the given one's place."""

    critique: str  # may be empty
    pair: Pair


def clean_text(text: str) -> str:
    """Replace NULs and lone surrogates, which cannot be stored, by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def make_nonce(pair: Pair, *parts: object) -> str:
    """Eight hex digits that follow from `parts` and do not occur in the pair."""
    for number in itertools.count():
        nonce = content_hash("nonce", *parts, number)[:8]
        if not any(nonce in text for text in (pair.instruction, pair.input, pair.response)):
            return nonce
    raise AssertionError  # count() has no end


def build_messages(
    phase: Phase, pair: Pair, *, structured: bool, nonce: str
) -> tuple[Mapping[str, str], ...]:
    """The prompt that asks for a reflection on a pair.

    One user message: some chat templates know no system role. The part that all pairs share stands
    first, so that servers can reuse its prefix.

    Args:
        phase: what is criticised and rewritten.
        pair: the incumbent.
        structured: ask for JSON, else for tagged text.
        nonce: from `make_nonce` for this pair.
    """
    prompts = _prompts()
    wrap = prompts["pair"]
    parts = [prompts["task"][phase], wrap["opening"]]
    for name in ("instruction", "input", "response"):
        text = clean_text(getattr(pair, name))
        if text.strip() or name != "input":
            parts.append(wrap[name].format(nonce=nonce, text=text))
    parts.append(prompts["structured" if structured else "tagged"][phase].format(nonce=nonce))
    return ({"role": "user", "content": "\n".join(parts)},)


def answer_schema(phase: Phase) -> dict[str, Any]:
    """JSON schema of an answer in structured form; the critique comes first, to guide the rest."""
    keys = ["critique", *_FIELDS[phase]]
    return {
        "type": "object",
        "properties": {key: {"type": "string"} for key in keys},
        "required": keys,
        "additionalProperties": False,
    }


def hash_messages(messages: Sequence[Mapping[str, str]]) -> str:
    """Content hash of a prompt."""
    return content_hash([dict(message) for message in messages])


def parse_answer(
    text: str, *, phase: Phase, pair: Pair, nonce: str, finish_reason: str | None = None
) -> Proposal | ParseFailure:
    """Read a teacher's answer about a pair, in whichever of the two forms it comes.

    The last complete answer in the text counts; code fences, prose and earlier drafts around it do not.

    Args:
        text: what the teacher wrote.
        phase: what was asked.
        pair: the incumbent.
        nonce: the one its prompt was built with.
        finish_reason: "length" where the answer hit the token limit.

    Returns:
        The proposal; or "cut" for an answer that hit the limit, "unparsable" for one without the asked
        texts or with the prompt's own words in them, "unchanged" for one that proposes the given pair.
    """
    if finish_reason == "length":
        return "cut"
    fields = _FIELDS[phase]
    found = _find_tags(text, nonce, fields) or _find_json(text, fields)
    if found is None:
        return "unparsable"
    found = {key: clean_text(value).strip() for key, value in found.items()}
    proposed_texts = [found[key] for key in fields]
    if not all(proposed_texts) or nonce in found["critique"] or _echoes_prompt(proposed_texts, pair, nonce):
        return "unparsable"
    if phase == "instruction":
        proposed = Pair(found["instruction"], "", found["response"])
    else:
        proposed = Pair(pair.instruction, pair.input, found["response"])
    if _stripped(proposed) == _stripped(pair):
        return "unchanged"
    return Proposal(found["critique"], proposed)


def _find_tags(text: str, nonce: str, fields: Mapping[str, str]) -> dict[str, str] | None:
    found = {key: _last_block(text, f"{tag}-{nonce}") for key, tag in fields.items()}
    if any(block is None for block in found.values()):
        return None
    critique = _last_block(text, f"critique-{nonce}") or ""
    return {"critique": critique} | {key: block or "" for key, block in found.items()}


def _last_block(text: str, tag: str) -> str | None:
    end = text.rfind(f"</{tag}>")
    opening = f"<{tag}>"
    start = text.rfind(opening, 0, end) if end >= 0 else -1
    return text[start + len(opening) : end] if start >= 0 else None


def _find_json(text: str, fields: Mapping[str, str]) -> dict[str, str] | None:
    keys = ("critique", *fields)
    decoder = json.JSONDecoder(strict=False)  # models leave line breaks in strings
    found = None
    start = text.find("{")
    while start >= 0:
        end = start + 1
        try:
            value, value_end = decoder.raw_decode(text, start)
        except ValueError:
            pass
        except RecursionError:
            break
        else:
            if all(isinstance(value.get(key), str) for key in keys):
                found, end = {key: value[key] for key in keys}, value_end
        start = text.find("{", end)
    return found


def _echoes_prompt(texts: Sequence[str], pair: Pair, nonce: str) -> bool:
    """Whether proposed texts repeat the prompt: its nonce, or a whole line that is not the pair's own."""
    own = "\n".join((pair.instruction, pair.input, pair.response))
    telltales = [nonce, *(line for line in _telltale_lines() if line not in own)]
    return any(telltale in text for text in texts for telltale in telltales)


@functools.cache
def _telltale_lines() -> tuple[str, ...]:
    texts = [text for section in _prompts().values() for text in section.values()]
    lines = {line for text in texts for line in text.splitlines() if len(line) >= _TELLTALE_LENGTH}
    return tuple(sorted(lines))


@functools.cache
def _prompts() -> dict[str, dict[str, str]]:
    text = (Path(__file__).parent / "prompts.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _stripped(pair: Pair) -> tuple[str, str, str]:
    return pair.instruction.strip(), pair.input.strip(), pair.response.strip()
