"""What the teacher reads and how its answer is understood.

All wording comes from TOML: prompts.toml in this folder, whose comments document the format, or a file of
the user's. An answer comes in one of two forms: a JSON object, or text between tags that carry a nonce,
which data cannot fake; JSON that the data hold is no answer. Whatever a teacher writes, parsing ends in a
proposal or in a status; it never raises, and never lets words of the prompt into a pair.
"""

import itertools
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from reflectune.agents.teacher.answers import is_placeholder, is_refusal, is_runaway
from reflectune.state.config import read_toml
from reflectune.state.errors import ConfigError
from reflectune.state.records import PHASES, Pair, Phase, content_hash

__all__ = [
    "SHIPPED",
    "ParseFailure",
    "Prompts",
    "Proposal",
    "answer_schema",
    "clean_text",
    "hash_messages",
    "make_nonce",
    "open_prompts",
]

SHIPPED = Path(__file__).parent / "prompts.toml"

ParseFailure = Literal["unparsable", "unchanged", "echoed", "placeholder", "declined", "repetition", "cut"]

# What an answer holds besides the critique: key of the JSON form -> tag of the tagged form.
_FIELDS: dict[str, dict[str, str]] = {
    "instruction": {"instruction": "new-instruction", "response": "new-response"},
    "response": {"response": "new-response"},
}
# Section of a prompts file -> its keys.
_KEYS: dict[str, tuple[str, ...]] = {
    "task": PHASES,
    "pair": ("opening", "instruction", "input", "response"),
    "structured": PHASES,
    "tagged": PHASES,  # the only section that may be left out
}
_FIELD = re.compile(r"\{(text|nonce)\}")
# No text of SQLite, JSON or a tokenizer may hold these.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# A JSON object, roughly: what nests deeper than this is no answer. Possessive and of bounded depth, so that
# no text takes long, and no error is raised at every brace of one.
_OUTSIDE = r'[^"\\{}\[\]]++'
_STRING = r'"(?:[^"\\]++|\\.)*+"'
_INSIDE = f"{_OUTSIDE}|{_STRING}"
for _depth in range(3):
    _INSIDE = rf"{_OUTSIDE}|{_STRING}|[\[{{](?:{_INSIDE})*+[\]}}]"
_OBJECT = re.compile(rf"\{{(?=\s*\")(?:{_INSIDE})*+\}}", re.DOTALL)
# A key of an answer and its text, as JSON in a pair may hold them.
_MEMBER = re.compile(r'(?="(instruction|response)"\s*:\s*("(?:[^"\\]++|\\.)*+"))', re.DOTALL)
_ESCAPES = re.compile(r'(?:\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})+')
_FENCE = re.compile(r"\A```\w*|```\Z")
_THOUGHT = re.compile(r"\s*<think>")
_WORD = re.compile(r"\w\S*\w|\w")  # without the punctuation around it
# Shorter runs of the prompt may well occur in an honest answer.
_TELLTALE_WORDS = 8
_TELLTALE_LENGTH = 40  # characters, of a line with fewer words: some scripts do without spaces


@dataclass(frozen=True, slots=True)
class Proposal:
    """A parsed answer: the teacher's critique and the pair it would put in the given one's place."""

    critique: str  # may be empty
    pair: Pair


@dataclass(frozen=True, slots=True)
class Prompts:
    """The words of one prompts file, and how answers to them are read.

    `texts` maps the sections of the file to their keys and texts.
    """

    texts: Mapping[str, Mapping[str, str]]

    @property
    def has_tags(self) -> bool:
        """Whether there are words that ask for tagged text; without them every prompt asks for JSON."""
        return "tagged" in self.texts

    def messages(
        self, phase: Phase, pair: Pair, *, structured: bool, nonce: str
    ) -> tuple[Mapping[str, str], ...]:
        """The prompt that asks for a reflection on a pair.

        One user message: some chat templates know no system role. The part that all pairs share stands
        first, so that servers can reuse its prefix.

        Args:
            phase: what is criticised and rewritten.
            pair: the incumbent.
            structured: ask for JSON, else for tagged text where there are words for it.
            nonce: from `make_nonce` for this pair.
        """
        marks = self.texts["pair"]
        form = "tagged" if self.has_tags and not structured else "structured"
        parts = [_fill(self.texts["task"][phase], nonce=nonce), _fill(marks["opening"], nonce=nonce)]
        for name in ("instruction", "input", "response"):
            text = clean_text(getattr(pair, name))
            if text.strip() or name != "input":
                parts.append(_fill(marks[name], nonce=nonce, text=text))
        parts.append(_fill(self.texts[form][phase], nonce=nonce))
        return ({"role": "user", "content": "\n".join(parts)},)

    def parse(
        self,
        text: str,
        *,
        phase: Phase,
        pair: Pair,
        structured: bool,
        nonce: str,
        finish_reason: str | None = None,
    ) -> Proposal | ParseFailure:
        """Read a teacher's answer about a pair.

        The last complete answer between tags counts, or else the last in JSON; code fences, prose and
        earlier drafts around it do not, nor does a thought that the text opens with. Where tags were asked
        for, JSON counts only as the whole text, code fence aside. A JSON object is no answer where it
        shares the instruction or response with JSON written in the pair, spacing aside: the teacher quotes
        it. What stands in the given pair already is no fault of the answer: a text of it that is a
        stand-in, its response that refuses, a text that ends in a loop.

        Args:
            text: what the teacher wrote.
            phase: what was asked.
            pair: the incumbent.
            structured: whether JSON was asked for, as in `messages`.
            nonce: the one its prompt was built with.
            finish_reason: "length" where the answer hit the token limit, "refusal" or "content_filter"
                where the server says that it is none.

        Returns:
            The proposal; or the first of these that holds. Of an answer that hit the limit: "repetition"
            where it ends in a loop, else "cut". "declined" where the server says so. Of an answer in one
            of the forms: "unparsable" with an empty text ("declined" where the critique refuses);
            "unchanged" with the given texts; "echoed" with the prompt's own words; "placeholder",
            "declined" or "repetition" with a text that is a stand-in, a refusal, or ends in a loop. Of any
            other text: "declined" where it refuses, "repetition" where it ends in a loop, "echoed" where
            all its long lines are the prompt's, else "unparsable", as is a thought without an end.
        """
        if finish_reason == "length":
            return "repetition" if _has_run_away(text, pair.response) else "cut"
        if finish_reason in ("refusal", "content_filter"):
            return "declined"
        fields = _FIELDS[phase]
        if _THOUGHT.match(text):
            text = text.partition("</think>")[2]
        answers = _find_tags(text, nonce, fields)
        if not answers:
            found_json = _find_json if structured or not self.has_tags else _read_json
            quoted = self._quotable(phase, pair, structured, nonce)
            answers = [
                answer
                for answer in found_json(text, fields)
                if not any((key, _join(answer[key])) in quoted for key in fields)
            ]
        if not answers:
            return self._judge_formless(text, phase, pair, nonce)
        found = answers[-1]
        proposed = {key: found[key] for key in fields}
        if fault := self._judge_texts(found["critique"], proposed, phase, pair, nonce):
            return fault
        if phase == "instruction":
            return Proposal(found["critique"], Pair(found["instruction"], "", found["response"]))
        return Proposal(found["critique"], Pair(pair.instruction, pair.input, found["response"]))

    def _judge_texts(
        self, critique: str, proposed: Mapping[str, str], phase: Phase, pair: Pair, nonce: str
    ) -> ParseFailure | None:
        """What keeps an answer's texts from being a proposal; None where nothing does."""
        if not all(proposed.values()):
            return "declined" if is_refusal(critique) else "unparsable"
        given = {key: clean_text(getattr(pair, key)).strip() for key in proposed}
        if proposed == given:
            return "unchanged"
        if nonce in critique or self._are_echoed(tuple(proposed.values()), phase, pair, nonce):
            return "echoed"
        if any(_stands_in(key, proposed, pair) for key in proposed):
            return "placeholder"
        if any(is_refusal(text) and not is_refusal(given[key]) for key, text in proposed.items()):
            return "declined"
        if any(_has_run_away(text, given[key]) for key, text in proposed.items()):
            return "repetition"
        return None

    def _judge_formless(self, text: str, phase: Phase, pair: Pair, nonce: str) -> ParseFailure:
        """What to call a text without an answer in it."""
        if is_refusal(text):
            return "declined"
        if _has_run_away(text, pair.response):
            return "repetition"
        shown = "\n".join(
            _condense(self.messages(phase, pair, structured=structured, nonce=nonce)[0]["content"])
            for structured in (True, False)
        )
        lines = {line.strip() for line in text.splitlines()}
        long = {_condense(line) for line in lines if len(line) >= _TELLTALE_LENGTH}
        if all(line in shown for line in long) and self._hold_words([text], pair):
            return "echoed"
        return "unparsable"

    def _are_echoed(self, proposed: tuple[str, ...], phase: Phase, pair: Pair, nonce: str) -> bool:
        """Whether proposed texts repeat the prompt.

        That is: one of them holds its nonce or a run of its words that is not the pair's own, or they all
        are those of one example answer in it. A text that merely equals one in an example may be honest.
        """
        if proposed in self._examples(phase, nonce):
            return True
        return any(nonce in text for text in proposed) or self._hold_words(proposed, pair)

    def _examples(self, phase: Phase, nonce: str) -> set[tuple[str, ...]]:
        """The proposed texts of every answer that stands in the words of a prompt, for a model to copy."""
        fields = _FIELDS[phase]
        sections = [section[phase] for name, section in self.texts.items() if name != "pair"]
        words = _fill("\n".join([self.texts["pair"]["opening"], *sections]), nonce=nonce)
        # Wherever a mark ends, a model may stop copying.
        starts = (words[: mark.end()] for mark in re.finditer(re.escape(f"-{nonce}>"), words))
        tagged = [answer for start in starts for answer in _find_tags(start, nonce, fields)]
        return {tuple(answer[key] for key in fields) for answer in [*tagged, *_find_json(words, fields)]}

    def _hold_words(self, texts: Iterable[str], pair: Pair) -> bool:
        """Whether texts hold a run of the file's words that no honest answer would, and the pair does not.

        A run is 8 words of the file in a row, or 40 characters of a line with fewer words, between fields;
        case, punctuation around words and line breaks do not matter.
        """
        words, signs = _runs_of(tuple(text for texts in self.texts.values() for text in texts.values()))
        held_words = words.intersection(run for text in texts for run in _word_runs(text))
        held_signs = signs and signs.intersection(run for text in texts for run in _sign_runs(text))
        for own in (pair.instruction, pair.input, pair.response):
            if held_words:
                held_words = held_words.difference(_word_runs(own))
            if held_signs:
                held_signs = held_signs.difference(_sign_runs(own))
        return bool(held_words or held_signs)

    def _quotable(self, phase: Phase, pair: Pair, structured: bool, nonce: str) -> set[tuple[str, str]]:
        """Keys and texts of the JSON that the prompt holds by its pair alone, raw or within a string."""
        found: list[set[tuple[str, str]]] = []
        for shown in (pair, Pair("", "", "")):
            prompt = self.messages(phase, shown, structured=structured, nonce=nonce)[0]["content"]
            found.append(_find_members(prompt) | _find_members(_ESCAPES.sub(_unescape, prompt)))
        return found[0] - found[1]


@cache
def _runs_of(texts: tuple[str, ...]) -> tuple[frozenset[tuple[str, ...]], frozenset[str]]:
    """Runs of words in the texts of a prompts file, and runs of characters in lines with too few words."""
    parts = [part for text in texts for part in _FIELD.split(text)]
    lines = [line for part in parts for line in part.splitlines()]
    words = frozenset(run for part in parts for run in _word_runs(part))
    return words, frozenset(run for line in lines if not any(_word_runs(line)) for run in _sign_runs(line))


def open_prompts(path: Path | None) -> Prompts:
    """The prompts of a file; None opens the shipped one.

    Raises:
        ConfigError: the file is missing, or not a prompts file.
    """
    path = path or SHIPPED
    try:
        values = read_toml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such prompts file; `reflectune prompts` prints one to edit") from None
    if fault := _find_fault(values):
        raise ConfigError(f"{path}: {fault}")
    return Prompts(values)


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


def _find_tags(text: str, nonce: str, fields: Mapping[str, str]) -> list[dict[str, str]]:
    """The last answer between tags whose fields are all there, in any order; none where there is none."""
    keys = {"critique": "critique"} | {tag: key for key, tag in fields.items()}
    opened: dict[str, int] = {}
    blocks: dict[str, tuple[int, int]] = {}  # of the answer that is being read
    complete: dict[str, tuple[int, int]] = {}
    for mark in re.finditer(f"<(/?)({'|'.join(keys)})-{re.escape(nonce)}>", text):
        key = keys[mark[2]]
        if not mark[1]:
            opened[key] = mark.end()
            if key in blocks:
                blocks = {}
        elif key in opened:
            blocks[key] = opened[key], mark.start()
            if fields.keys() <= blocks.keys():
                complete = blocks
    if not complete:
        return []
    complete = {"critique": (0, 0)} | complete
    return [{key: clean_text(text[start:end]).strip() for key, (start, end) in complete.items()}]


def _find_json(text: str, fields: Mapping[str, str]) -> list[dict[str, str]]:
    """All answers that are JSON objects, in their order."""
    found = []
    start = 0
    while match := _OBJECT.search(text, start):
        answer = _read_object(match[0], fields)
        found += answer
        start = match.end() if answer else match.start() + 1
    return found


def _read_json(text: str, fields: Mapping[str, str]) -> list[dict[str, str]]:
    """The answer that a whole text is, white space and a code fence aside; none where it is not one."""
    match = _OBJECT.fullmatch(_FENCE.sub("", text.strip()).strip())
    return _read_object(match[0], fields) if match else []


def _read_object(source: str, fields: Mapping[str, str]) -> list[dict[str, str]]:
    """The answer that a JSON object is; none where it is not one."""
    keys = ("critique", *fields)
    try:
        value = json.loads(source, strict=False)  # models leave line breaks in strings
    except ValueError:
        return []
    if not all(isinstance(value.get(key), str) for key in keys):
        return []
    return [{key: clean_text(value[key]).strip() for key in keys}]


def _find_members(text: str) -> set[tuple[str, str]]:
    """Keys of an answer and their texts wherever they stand as JSON, be it in no whole object."""
    found = set()
    for match in _MEMBER.finditer(text):
        try:
            found.add((match[1], _join(clean_text(json.loads(match[2], strict=False)))))
        except ValueError:
            continue
    return found


def _unescape(match: re.Match[str]) -> str:
    """What escapes stand for within a JSON string."""
    text: str = json.loads(f'"{match[0]}"')
    return clean_text(text)


def _join(text: str) -> str:
    """A text with all its white space made single spaces."""
    return " ".join(text.split())


def _condense(text: str) -> str:
    """A text without white space and case."""
    return "".join(text.split()).casefold()


def _word_runs(text: str) -> Iterator[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return zip(*(words[start:] for start in range(_TELLTALE_WORDS)), strict=False)


def _sign_runs(text: str) -> Iterator[str]:
    signs = _condense(text)
    last = len(signs) - _TELLTALE_LENGTH
    return (signs[start : start + _TELLTALE_LENGTH] for start in range(last + 1))


def _stands_in(key: str, proposed: Mapping[str, str], pair: Pair) -> bool:
    """Whether a proposed text is a stand-in that stands neither in the pair nor in what now asks for it."""
    text = proposed[key]
    if not is_placeholder(text):
        return False
    asked = proposed.get("instruction", "") if key == "response" else ""
    near = (pair.instruction, pair.input, pair.response, asked)
    return not any(text.casefold() in own.casefold() for own in near)


def _has_run_away(text: str, given: str) -> bool:
    """Whether a text ends in a loop, which the given one in its place does not."""
    return is_runaway(text) and not is_runaway(given)


def _fill(text: str, /, **values: str) -> str:
    """Replace fields once and literally: all other braces, and those of the values, stay."""
    return _FIELD.sub(lambda match: values.get(match[1], match[0]), text)


def _find_fault(values: Mapping[str, object]) -> str | None:
    """What keeps TOML from being a prompts file; None where nothing does."""
    if unknown := [name for name in values if name not in _KEYS]:
        known = ", ".join(f"[{section}]" for section in _KEYS)
        return f"unknown section {unknown[0]!r}; a prompts file has {known}"
    for section, keys in _KEYS.items():
        if section not in values:
            if section == "tagged":
                continue
            return f"section [{section}] is missing; want its texts {', '.join(keys)}"
        texts = values[section]
        if not isinstance(texts, dict):
            return f"{section} must be a section [{section}], got {reprlib.repr(texts)}"
        if unknown := [key for key in texts if key not in keys]:
            return f"[{section}] has an unknown key {unknown[0]!r}; its keys are {', '.join(keys)}"
        for key in keys:
            if fault := _find_text_fault(section, key, texts.get(key)):
                return f"[{section}].{key} {fault}"
    return None


def _find_text_fault(section: str, key: str, text: object) -> str | None:
    if text is None:
        return "is missing; want a text"
    if not isinstance(text, str):
        return f"must be a text, got {reprlib.repr(text)}"
    if section == "pair":
        if key == "opening" or "{text}" in text:
            return None
        return f"must hold {{text}}, which the pair's {key} replaces"
    if not text.strip():
        return "must not be empty"
    if section == "tagged":
        for tag in _FIELDS[key].values():
            if not _find_tags(text, "{nonce}", {tag: tag}):
                return f"must hold <{tag}-{{nonce}}> and, after it, </{tag}-{{nonce}}>"
    return None
