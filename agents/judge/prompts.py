"""What the judge reads, and how its verdict is found in what it wrote.

All wording comes from TOML: prompts.toml in this folder, whose comments document the format, or a file of
the user's.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from reflectune.agents.teacher.prompts import fill, make_nonce
from reflectune.agents.thoughts import drop_thoughts
from reflectune.state.config import read_toml
from reflectune.state.errors import ConfigError
from reflectune.state.judgements import Comparison, Verdict
from reflectune.state.records import CallStatus, Pair
from reflectune.state.text import clean_text, one_line

__all__ = ["SHIPPED", "open_judge_prompts", "read_verdict", "write_messages"]

SHIPPED = Path(__file__).parent / "prompts.toml"
# Key of a prompts file -> what its text must hold.
_HOLDS: dict[str, tuple[str, ...]] = {
    "task": (),
    "turn": ("{role}", "{text}"),
    "instruction": ("{text}",),
    "input": ("{text}",),
    "first": ("{text}",),
    "second": ("{text}",),
    "form": ("[[A]]", "[[B]]", "[[tie]]"),
}
_VERDICTS: dict[str, Verdict] = {"a": "first", "b": "second", "tie": "tie"}
_MARK = re.compile(r"\[\[\s*(A|B|tie)\s*\]\]", re.IGNORECASE)


def open_judge_prompts(path: str | None) -> Mapping[str, str]:
    """The words of a prompts file; None opens the shipped one. ConfigError where it is none."""
    file = SHIPPED if path is None else Path(path)
    try:
        texts = read_toml(file)
    except FileNotFoundError:
        raise ConfigError(f"judge.prompts: {file}: no such file; copy {SHIPPED} and edit it") from None
    if unknown := texts.keys() - _HOLDS:
        raise ConfigError(f"judge.prompts: {file}: unknown key {min(unknown)}; known: {', '.join(_HOLDS)}")
    for key, held in _HOLDS.items():
        text = texts.get(key)
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"judge.prompts: {file}: {key} must be a text, got {text!r}")
        if missing := [part for part in held if part not in text]:
            raise ConfigError(f"judge.prompts: {file}: {key} must hold {missing[0]}")
    return texts


def write_messages(texts: Mapping[str, str], asked: Comparison) -> tuple[Mapping[str, str], ...]:
    """The prompt that asks for a verdict, as one user message; the next attempt at it reads another nonce."""
    pair, answers = asked.pair, asked.answers
    nonce = make_nonce(Pair(pair.instruction, pair.input, "\n".join(answers), pair.context), asked.attempts)
    parts = [fill(texts["task"], nonce=nonce)]
    for turn in pair.context:
        said = "\n".join(filter(None, (turn.content, json.dumps(turn.told) if turn.told else "")))
        parts.append(fill(texts["turn"], nonce=nonce, role=one_line(turn.role), text=clean_text(said)))
    named = {"instruction": pair.instruction, "input": pair.input, "first": answers[0], "second": answers[1]}
    for name, text in named.items():
        if text.strip() or name != "input":
            parts.append(fill(texts[name], nonce=nonce, text=clean_text(text)))
    parts.append(fill(texts["form"], nonce=nonce))
    return ({"role": "user", "content": "\n".join(parts)},)


def read_verdict(text: str, finish_reason: str | None) -> tuple[CallStatus, Verdict | None]:
    """The verdict of an answer with the status ok, or the status that says why it has none.

    It is the mark in the last line that has any, outside of thoughts; a line with two different marks tells
    none, nor does an answer that was cut.
    """
    if finish_reason in ("refusal", "content_filter"):
        return "declined", None
    said = drop_thoughts(text, text)
    if text.strip() and not said.strip():
        return "thought", None
    if finish_reason == "length":
        return "cut", None
    lines = [{mark.lower() for mark in _MARK.findall(line)} for line in said.splitlines()]
    *_, told = (set[str](), *filter(None, lines))
    return ("ok", _VERDICTS[told.pop()]) if len(told) == 1 else ("unparsable", None)
