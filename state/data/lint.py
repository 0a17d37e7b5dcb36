"""Known faults of instruction data, found before anything is paid.

A rule looks at one pair. What shows only beside other pairs is found from 16 bytes a pair.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from reflectune.state.data.fields import TEMPLATE_MARKS
from reflectune.state.data.rows import Reading
from reflectune.state.records import Pair, content_hash

__all__ = ["RULES", "Fault", "Rule", "find_faults"]

_SHOWN = 3  # examples of a fault
_CHUNK = 2**16  # pairs compared at once

_PLACEHOLDERS = {
    "<noinput>", "<no input>", "noinput", "no input", "none", "n/a", "na", "nan", "null", "undefined", "-",
    "[blank]", "<blank>", "todo", "tbd",
}  # fmt: skip
_HEADING = re.compile(
    r"^\s*#+ *(instruction|input|response|human|assistant|user)(?= *(:|$))", re.IGNORECASE | re.MULTILINE
)
_ASKING = re.compile(r"^\s*(instruction|human|user|question) ?\d*:", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault of a single pair."""

    name: str
    what: str
    find: Callable[[Pair], str | None]  # what is wrong with the pair


@dataclass(slots=True)
class Fault:
    """How often a fault was found, and where some of it stands."""

    name: str
    what: str
    number: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count one more."""
        self.number += 1
        if len(self.examples) < _SHOWN:
            self.examples.append(example)


def _is_placeholder(text: str) -> str | None:
    return text.strip() if text.strip().rstrip(".").casefold() in _PLACEHOLDERS else None


def _find_first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[0].strip() if found else None


def _find_merged(response: str) -> str | None:
    # A response that begins with such a word was asked for a dialogue or a list of questions.
    asking = None if _ASKING.match(response) else _find_first(_ASKING, response)
    return _find_first(_HEADING, response) or asking


RULES = (
    Rule("placeholder-input", "a word that stands for no input", lambda pair: _is_placeholder(pair.input)),
    Rule(
        "placeholder-instruction", "a word that stands for nothing as the instruction",
        lambda pair: _is_placeholder(pair.instruction),
    ),
    Rule(
        "placeholder-response", "a word that stands for nothing as the response",
        lambda pair: _is_placeholder(pair.response),
    ),
    Rule(
        "merged", "a response that goes on with another instruction",
        lambda pair: _find_merged(pair.response),
    ),
    Rule(
        "marks", "marks of a chat template within the texts",
        lambda pair: _find_first(TEMPLATE_MARKS, f"{pair.instruction}\n{pair.input}\n{pair.response}"),
    ),
)  # fmt: skip
_BLANK = Fault("blank", "an instruction or a response without any text")
_DUPLICATE = Fault("duplicate", "a pair that came before")
_CONFLICT = Fault("other-response", "an instruction that came before, with another response")


def find_faults(read: Callable[[], Iterable[Reading]], count: Callable[[Reading], None]) -> list[Fault]:
    """Every fault with how often it was found; `count` sees each row once.

    The rows are read a second time where some repeat others, to say which.
    """
    blank, duplicate, conflict = (replace(fault, examples=[]) for fault in (_BLANK, _DUPLICATE, _CONFLICT))
    faults = [Fault(rule.name, rule.what) for rule in RULES]
    keys = bytearray()
    for reading in read():
        count(reading)
        for refusal in reading.refusals:
            if refusal.is_blank:
                blank.add(f"{reading.where}: {refusal}")
        for record in reading.records:
            for rule, fault in zip(RULES, faults, strict=True):
                if (found := rule.find(record.pair)) is not None:
                    fault.add(f"{reading.where}: {found}")
            keys += _make_key(record.pair)
    repeated, disputed = _count_repeats(keys, duplicate, conflict)
    if repeated or disputed:
        _show_repeats(read(), repeated, duplicate, key=lambda key: key)
        _show_repeats(read(), disputed, conflict, key=lambda key: key[:8])
    return [blank, *faults, duplicate, conflict]


def _make_key(pair: Pair) -> bytes:
    """16 bytes: the half of what is asked, the half of the response."""
    asked = replace(pair, response="").content_hash
    return bytes.fromhex(asked[:16] + content_hash(pair.response)[:16])


def _count_repeats(keys: bytearray, duplicate: Fault, conflict: Fault) -> tuple[set[bytes], set[bytes]]:
    """Count what repeats another in the sorted keys; some of these keys, to be shown."""
    import numpy

    array = numpy.frombuffer(keys, dtype="S16")
    array.sort()
    halves = numpy.frombuffer(keys, dtype=numpy.uint64).reshape(-1, 2)
    repeated: set[bytes] = set()
    disputed: set[bytes] = set()
    for start in range(0, max(len(halves) - 1, 0), _CHUNK):
        alike = halves[start : start + _CHUNK + 1]
        alike = alike[1:] == alike[:-1]
        same, other = alike.all(axis=1), alike[:, 0] & ~alike[:, 1]
        duplicate.number += int(same.sum())
        conflict.number += int(other.sum())
        for found, shown, size in ((same, repeated, 16), (other, disputed, 8)):
            for index in numpy.flatnonzero(found)[:_SHOWN]:
                if len(shown) < _SHOWN:
                    at = 16 * (start + int(index))
                    shown.add(bytes(keys[at : at + size]))
    return repeated, disputed


def _show_repeats(
    readings: Iterable[Reading], wanted: set[bytes], fault: Fault, key: Callable[[bytes], bytes]
) -> None:
    """Say where the first rows with one of these keys stand."""
    places: dict[bytes, list[str]] = {}
    for where, found in _list_keys(readings) if wanted else ():
        if key(found) in wanted:
            rows = places.setdefault(key(found), [])
            if len(rows) <= _SHOWN:
                rows.append(where)
    fault.examples = [
        " and ".join(rows[:_SHOWN] + ["more"] * (len(rows) > _SHOWN)) for rows in places.values()
    ]


def _list_keys(readings: Iterable[Reading]) -> Iterator[tuple[str, bytes]]:
    for reading in readings:
        for record in reading.records:
            yield reading.where, _make_key(record.pair)
