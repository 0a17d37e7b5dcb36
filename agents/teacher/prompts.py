"""What the teacher reads: the words of a prompts file with a pair among them.

All wording comes from TOML: prompts.toml in this folder, whose comments document the format, or a file of
the user's.
"""

import itertools
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reflectune.agents.teacher.declines import has_words
from reflectune.agents.teacher.forms import FIELDS, find_tags
from reflectune.state.config import read_toml
from reflectune.state.errors import ConfigError
from reflectune.state.records import PHASES, Pair, Phase, content_hash
from reflectune.state.text import clean_text, one_line

__all__ = ["FIELD", "SHIPPED", "Prompts", "fill", "make_nonce", "open_prompts", "texts_of"]

SHIPPED = Path(__file__).parent / "prompts.toml"
FIELD = re.compile(r"\{(text|role|nonce)\}")  # what is replaced in the words of a file

# Section of a prompts file -> its keys.
_KEYS: dict[str, tuple[str, ...]] = {
    "task": PHASES,
    "pair": ("opening", "instruction", "input", "response"),
    "context": (*PHASES, "turn", "fields"),
    "structured": PHASES,
    "tagged": PHASES,
    "declines": ("phrases",),
}
_OPTIONAL = ("context", "tagged", "declines")
# What words that data goes into must hold.
_HOLDS: dict[str, dict[str, tuple[str, ...]]] = {
    "pair": {"opening": (), "instruction": ("text",), "input": ("text",), "response": ("text",)},
    "context": {"turn": ("role", "text"), "fields": ("text",)},
}


@dataclass(frozen=True, slots=True)
class Prompts:
    """The words of one prompts file."""

    texts: Mapping[str, Mapping[str, str]]  # section -> key -> text; of all that the teacher reads
    declines: Sequence[str] = ()  # beginnings of texts that are no answer, besides those that are known

    @property
    def has_tags(self) -> bool:
        """Whether there are words that ask for tagged text; without them every prompt asks for JSON."""
        return "tagged" in self.texts

    def check(self, pairs: Iterable[Pair]) -> None:
        """Raise a ConfigError where pairs have a context and there are no words for one."""
        if "context" not in self.texts and any(pair.context for pair in pairs):
            raise ConfigError(
                "teacher.prompts: the file has no section [context], which pairs of conversations need; "
                "`reflectune prompts` prints one to copy"
            )

    def messages(
        self, phase: Phase, pair: Pair, *, structured: bool, nonce: str
    ) -> tuple[Mapping[str, str], ...]:
        """The prompt that asks for a reflection on a pair.

        One user message: some chat templates know no system role. The part that all pairs share stands first,
        so that servers can reuse its prefix. `structured` asks for JSON, else for tagged text where there are
        words for it; the nonce is from `make_nonce`. A ConfigError as of `check`.
        """
        self.check([pair])
        marks = self.texts["pair"]
        form = "tagged" if self.has_tags and not structured else "structured"
        parts = [fill(self.texts["task"][phase], nonce=nonce), fill(marks["opening"], nonce=nonce)]
        parts += self._show_context(phase, pair, nonce)
        for name in ("instruction", "input", "response"):
            text = clean_text(getattr(pair, name))
            if text.strip() or name != "input":
                parts.append(fill(marks[name], nonce=nonce, text=text))
        parts.append(fill(self.texts[form][phase], nonce=nonce))
        return ({"role": "user", "content": "\n".join(parts)},)

    def _show_context(self, phase: Phase, pair: Pair, nonce: str) -> Iterator[str]:
        """What is said of a pair's context, where it has one, and its turns."""
        if pair.context:
            words = self.texts["context"]
            yield fill(words[phase], nonce=nonce)
            for turn in pair.context:
                role, text = one_line(turn.role), clean_text(turn.content)
                yield fill(words["turn"], nonce=nonce, role=role, text=text)
                if turn.told:
                    fields = json.dumps(turn.told, ensure_ascii=False)
                    yield fill(words["fields"], nonce=nonce, text=clean_text(fields))


def open_prompts(path: str | Path | None) -> Prompts:
    """The prompts of a file; None opens the shipped one. ConfigError where it is not a prompts file."""
    path = SHIPPED if path is None else Path(path)
    try:
        values = read_toml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such prompts file; `reflectune prompts` prints one to edit") from None
    if fault := _find_fault(values):
        raise ConfigError(f"{path}: {fault}")
    declines = values.pop("declines", {"phrases": ()})
    return Prompts(values, tuple(declines["phrases"]))


def make_nonce(pair: Pair, *parts: object) -> str:
    """Eight hex digits that follow from `parts` and do not occur in the pair or its context."""
    nonces = (content_hash("nonce", *parts, number)[:8] for number in itertools.count())
    texts = texts_of(pair)
    return next(nonce for nonce in nonces if not any(nonce in text for text in texts))


def texts_of(pair: Pair) -> list[str]:
    """All that a prompt holds of a pair, as it is given."""
    turns = [text for turn in pair.context for text in (turn.role, turn.content, turn.more)]
    return [pair.instruction, pair.input, pair.response, *turns]


def fill(text: str, /, **values: str) -> str:
    """Replace fields once and literally: all other braces, and those of the values, stay."""
    return FIELD.sub(lambda match: values.get(match[1], match[0]), text)


def _find_fault(values: Mapping[str, object]) -> str | None:
    """What keeps TOML from being a prompts file; None where nothing does."""
    if unknown := [name for name in values if name not in _KEYS]:
        known = ", ".join(f"[{section}]" for section in _KEYS)
        return f"unknown section {unknown[0]!r}; a prompts file has {known}"
    for section, keys in _KEYS.items():
        texts = values.get(section, {})
        if section in _OPTIONAL and section not in values:
            continue
        if not isinstance(texts, dict):
            return f"{section} must be a section [{section}], got {reprlib.repr(texts)}"
        if unknown := [key for key in texts if key not in keys]:
            return f"[{section}] has an unknown key {unknown[0]!r}; its keys are {', '.join(keys)}"
        for key in keys:
            if fault := _find_text_fault(section, key, texts.get(key)):
                return f"[{section}].{key} {fault}"
    return None


def _find_text_fault(section: str, key: str, text: object) -> str | None:
    if section == "declines":
        is_list = isinstance(text, list) and all(isinstance(each, str) and has_words(each) for each in text)
        return None if is_list else f"must be a list of texts with words, got {reprlib.repr(text)}"
    if not isinstance(text, str):
        return "is missing; want a text" if text is None else f"must be a text, got {reprlib.repr(text)}"
    if (wanted := _HOLDS.get(section, {}).get(key)) is not None:
        missing = [f"{{{name}}}" for name in wanted if f"{{{name}}}" not in text]
        return f"must hold {missing[0]}, which data replaces" if missing else None
    if not text.strip():
        return "must not be empty"
    for tag in FIELDS[key].values() if section == "tagged" else ():
        if not find_tags(text, "{nonce}", {tag: tag}):
            return f"must hold <{tag}-{{nonce}}> and, after it, </{tag}-{{nonce}}>"
    return None
