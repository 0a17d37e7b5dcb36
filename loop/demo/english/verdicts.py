"""Answers that a judge has compared: data and a recorded teacher made of them, and what a run made of them.

A file of them is JSON Lines, one instruction a line:

    {"instruction", "answers": [{"model", "response", "win"}]}

`win` is the judge's preference for the answer over one fixed model's, from 0 to 1, as AlpacaEval 2 has it.
The student never sees it.
"""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reflectune.state.data.labels import CLEAR, log_odds
from reflectune.state.lineage.proposals import read_proposals
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import Pair, Proposed

__all__ = [
    "Answer", "Judged", "Verdicts", "account_for", "have_like_length", "leave_instructions",
    "read_judged", "write_inputs",
]  # fmt: skip

_LIKE_LENGTH = 1.25  # most times the other's characters


class Answer(NamedTuple):
    """One model's answer and its verdict."""

    model: str
    response: str
    win: float

    @property
    def verdict(self) -> float:
        """The log-odds of being preferred."""
        return log_odds(self.win)


class Judged(NamedTuple):
    """An instruction and its answers."""

    instruction: str
    answers: tuple[Answer, ...]


def read_judged(path: Path) -> list[Judged]:
    """Read a file of judged answers."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [Judged(row["instruction"], tuple(Answer(**answer) for answer in row["answers"])) for row in rows]


def write_inputs(judged: Iterable[Judged], data: Path, recording: Path) -> None:
    """Write a run's data, of first answers, and its recorded teacher, with the next one each round."""
    rows = list(judged)
    pairs = [{"instruction": row.instruction, "output": row.answers[0].response} for row in rows]
    data.write_text(json.dumps(pairs, ensure_ascii=False, indent=1), encoding="utf-8")
    with recording.open("w", encoding="utf-8") as lines:
        for row in rows:
            for round, answer in enumerate(row.answers[1:], start=1):
                entry = {"phase": "response", "round": round, "instruction": row.instruction, "input": ""}
                print(json.dumps(entry | {"new_response": answer.response}, ensure_ascii=False), file=lines)


def leave_instructions(judged: Iterable[Judged], recording: Path) -> None:
    """Let a recorded teacher find every instruction good as it is, with whichever answer it stands."""
    with recording.open("a", encoding="utf-8") as lines:
        for row in judged:
            for answer in row.answers:
                given = {"instruction": row.instruction, "input": "", "response": answer.response}
                new = {"new_instruction": row.instruction, "new_response": answer.response}
                print(json.dumps({"phase": "instruction"} | given | new, ensure_ascii=False), file=lines)


class Verdicts:
    """The verdict on every answer that was judged."""

    def __init__(self, judged: Iterable[Judged]) -> None:
        self._known = {
            (row.instruction.strip(), answer.response.strip()): answer
            for row in judged
            for answer in row.answers
        }

    def of(self, pair: Pair) -> float | None:
        """A pair's verdict; None where its response was never judged as an answer to its instruction."""
        answer = self.answer_of(pair)
        return None if answer is None else answer.verdict

    def answer_of(self, pair: Pair) -> Answer | None:
        """The answer that a pair's response is; None where it was never judged."""
        return self._known.get((pair.instruction.strip(), pair.response.strip()))


def account_for(lineage: LineageReader, verdicts: Verdicts) -> list[dict[str, Any]]:
    """What the verdicts say of each round, from 0 on: one document each.

    "verdict": mean log-odds over the pairs of D[r] that were judged; "judged", their number. "proposed": the
    mean of the round's proposals, which are the pool if all are taken and each sample has one. The rest is
    about proposals that are clearly better or worse than the pair before: "accepted" and "refused", their
    numbers; "raised", the share of the accepted that is better; "spared", the share of the refused that is
    worse. "at_like_length": these again, of pairs whose lengths differ by a quarter at most. A mean or a
    share is None where there is nothing of which it is one.
    """
    return [
        {"round": round, **_of_pool(lineage.pool(round), verdicts), **_of_round(lineage, round, verdicts)}
        for round in range(lineage.last_round() + 1)
    ]


def _of_pool(pool: Iterable[Pair], verdicts: Verdicts) -> dict[str, Any]:
    known = _known(pool, verdicts)
    return {"verdict": _mean(known), "judged": len(known)}


def _known(pairs: Iterable[Pair], verdicts: Verdicts) -> list[float]:
    return [verdict for pair in pairs if (verdict := verdicts.of(pair)) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _of_round(lineage: LineageReader, round: int, verdicts: Verdicts) -> dict[str, Any]:
    proposals = list(read_proposals(lineage, round, "response"))
    alike = [item for item in proposals if have_like_length(item.incumbent.response, item.candidate.response)]
    proposed = _mean(_known((item.candidate for item in proposals), verdicts))
    return {"proposed": proposed, **_count(proposals, verdicts), "at_like_length": _count(alike, verdicts)}


def have_like_length(one: str, other: str) -> bool:
    """Whether two responses differ in length by a quarter at most."""
    lengths = len(one), len(other)
    return max(lengths) <= _LIKE_LENGTH * min(lengths)


def _count(proposals: Iterable[Proposed], verdicts: Verdicts) -> Mapping[str, Any]:
    gains = [found for found in _gains(proposals, verdicts) if abs(found[1]) > CLEAR]
    taken, refused = ([gain for was_taken, gain in gains if was_taken is wanted] for wanted in (True, False))
    return {
        "accepted": len(taken),
        "raised": _mean([gain > 0 for gain in taken]),
        "refused": len(refused),
        "spared": _mean([gain < 0 for gain in refused]),
    }


def _gains(proposals: Iterable[Proposed], verdicts: Verdicts) -> Iterator[tuple[bool, float]]:
    """Whether each proposal was accepted, and by how much its verdict is above that of the pair before it."""
    for item in proposals:
        before, after = verdicts.of(item.incumbent), verdicts.of(item.candidate)
        if before is not None and after is not None:
            yield item.accepted, after - before
