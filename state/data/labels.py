"""Preferences that data brings: which of two responses to one instruction is the better one.

A row says so with `chosen` and `rejected`, or with a list `answers` that each have a `win`. So do several
rows of one instruction with a `win` each. A win is a share from 0 to 1.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from reflectune.state.config import DataConfig
from reflectune.state.data.rows import RowReader
from reflectune.state.data.sources import open_source
from reflectune.state.records import Pair

__all__ = ["CLEAR", "Preference", "log_odds", "question_of", "read_preferences"]

CLEAR = 1.0  # two verdicts whose log-odds differ by more do so clearly
_CLIP = 1e-6  # wins nearer to 0 or 1 count as this near
_TEXTS = ("response", "output")  # where an answer in a list has its text


@dataclass(frozen=True, slots=True)
class Preference:
    """Two pairs of one instruction."""

    better: Pair
    worse: Pair


def read_preferences(data: DataConfig, seed: int) -> Iterator[Preference]:
    """The preferences of a dataset: of each row with both sides, then of each instruction that has wins.

    Of several answers with a `win` two are drawn whose log-odds ln(win / (1 - win)) differ by more than 1.
    Rows that are no pairs are passed over, and those whose sides answer different questions.
    """
    reader, rng = RowReader(data), random.Random(f"{seed}/preferences")
    judged: dict[Pair, list[tuple[float, Pair]]] = {}  # by what is asked
    for where, row in open_source(data)():
        if not isinstance(row, dict):
            continue
        if "rejected" in row and "chosen" in row:
            better, worse = (_read(reader, where, row | {"chosen": row[it]}) for it in ("chosen", "rejected"))
            if better and worse and better != worse and question_of(better) == question_of(worse):
                yield Preference(better, worse)
        for win, variant in _list_answers(row):
            if pair := _read(reader, where, variant):
                judged.setdefault(question_of(pair), []).append((win, pair))
    for answers in judged.values():
        yield from _draw(answers, rng)


def question_of(pair: Pair) -> Pair:
    """What a pair answers: the pair without its response."""
    return replace(pair, response="")


def _read(reader: RowReader, where: str, row: Mapping[str, Any]) -> Pair | None:
    records = reader.read(where, dict(row)).records
    return records[-1].pair if records else None


def _list_answers(row: Mapping[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
    """The answers of a row with their wins, each as a row of its own."""
    answers = row.get("answers")
    if not isinstance(answers, list):
        if _is_win(row.get("win")):
            yield row["win"], dict(row)
        return
    rest = {key: value for key, value in row.items() if key != "answers"}
    for answer in answers:
        if isinstance(answer, dict) and _is_win(answer.get("win")):
            text = next((answer[key] for key in _TEXTS if key in answer), None)
            yield answer["win"], rest | {"output": text}


def _is_win(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _draw(answers: Sequence[tuple[float, Pair]], rng: random.Random) -> Iterator[Preference]:
    """One pair of answers whose verdicts differ clearly, if there is any."""
    clear = [
        Preference(better, worse)
        for (high, better), (low, worse) in permutations(answers, 2)
        if log_odds(high) - log_odds(low) > CLEAR
    ]
    if clear:
        yield rng.choice(clear)


def log_odds(win: float) -> float:
    """ln(win / (1 - win)), of a win kept a millionth away from 0 and 1."""
    win = min(max(win, _CLIP), 1 - _CLIP)
    return math.log(win / (1 - win))
