"""How IFD, r-IFD and response length are distributed in a run's pools.

Scores of two students never come into one distribution, nor into two that are compared.
"""

import json
import math
import statistics
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from reflectune.state.lineage.documents import Distribution, Measures, Panel
from reflectune.state.lineage.reader import LineageReader

__all__ = ["MEASURES", "Measure", "distribute_lengths", "distribute_scores"]

Measure = Literal["ifd", "r_ifd"]
MEASURES: tuple[Measure, ...] = get_args(Measure)

Scored = Mapping[str, Measures]  # by sample

_BINS = 40


def distribute_scores(lineage: LineageReader, complete: int) -> dict[Measure, list[Panel]]:
    """The pools up to round `complete`, of each measure as panels of one student each.

    One panel under the first student where it scored the same samples, `drawn` by lot, in later rounds too;
    otherwise (`drawn` None) one for each round: the pool before and after it under the student that decided,
    over what that student happened to score on both sides.
    """
    students = dict(lineage.db.execute("SELECT round, student_id FROM rounds").fetchall())
    settings = lineage.settings()
    count = settings["config"].get("evaluate", {}).get("base_samples", 0)
    drawn = lineage.choose_samples(count, settings["seed"]) if count and complete else []
    base = {at: _scores(lineage, students[0], at, drawn) for at in range(complete + 1) if drawn}
    panels = {measure: _base_panels(lineage, measure, students[0], base, len(drawn)) for measure in MEASURES}
    missing = [measure for measure in MEASURES if not panels[measure]]
    for round in range(1, complete + 1 if missing else 0):
        student = students[lineage.deciding_round(round)]
        both = {at: _scores(lineage, student, at) for at in (round - 1, round)}
        for measure in missing:
            panel = _panel(lineage, measure, student, both, None)
            panels[measure] += [panel] if panel["n"] else []
    return panels


def _base_panels(
    lineage: LineageReader, measure: Measure, student: str, scored: Mapping[int, Scored], drawn: int
) -> list[Panel]:
    """One panel of the rounds in which a student scored every sample that it was to score in all; else none.

    Only those samples are taken: the others that it scored in every round are those that never changed.
    """
    whole = {
        round: scores
        for round, scores in scored.items()
        if sum(of[measure] is not None or of["status"] != "ok" for of in scores.values()) == drawn
    }
    if 0 not in whole or (max(scored) not in whole and max(whole) < 2):
        return []
    panel = _panel(lineage, measure, student, whole, drawn)
    return [panel] if panel["n"] else []


def _panel(
    lineage: LineageReader, measure: Measure, student: str, scored: Mapping[int, Scored], drawn: int | None
) -> Panel:
    known = {
        round: {sample: value for sample, of in scores.items() if (value := of[measure]) is not None}
        for round, scores in scored.items()
    }
    among = set.intersection(*map(set, known.values()))
    values = {round: [of[sample] for sample in of if sample in among] for round, of in known.items()}
    of = lineage.samples()["train"]
    return {"student": student, "n": len(among), "of": of, "drawn": drawn, **_distribute(values)}


def _scores(lineage: LineageReader, student: str, round: int, samples: Sequence[str] | None = None) -> Scored:
    """What a student makes of a pool, by sample: of those that it scored, or of some samples."""
    among = "" if samples is None else "AND sample_id IN (SELECT value FROM json_each(:samples))"
    rows = lineage.db.execute(
        f"SELECT sample_id, version_id FROM pool WHERE round = :round {among}",
        {"round": round, "samples": json.dumps(samples)},
    )
    pool = dict(rows.fetchall())
    measures = lineage.measures([*pool.values()], student)
    return {sample: measures[version] for sample, version in pool.items() if version in measures}


def distribute_lengths(lineage: LineageReader, complete: int) -> Distribution:
    """Characters of the pool's responses up to round `complete`: {edges, rounds} as in a panel."""
    lengths = {
        round: [
            row[0]
            for row in lineage.db.execute(
                "SELECT LENGTH(response) FROM pool CROSS JOIN versions ON versions.id = pool.version_id "
                "WHERE pool.round = ?",
                [round],
            )
        ]
        for round in range(complete + 1)
    }
    return _distribute(lengths)


def _distribute(values: Mapping[int, Sequence[float]]) -> Distribution:
    """Values by round as summaries, and counted between common edges."""
    positive = [value for of_round in values.values() for value in of_round if value > 0]
    edges = _edges(positive)
    return {
        "edges": edges,
        "rounds": [
            {"round": round, "n": len(of_round), "counts": _bin(of_round, edges), **_summarise(of_round)}
            for round, of_round in sorted(values.items())
            if of_round
        ],
    }


def _edges(positive: Sequence[float]) -> list[float]:
    """Logarithmic edges from the lowest to the highest value."""
    if not positive:
        return []
    low, high = math.log(min(positive)), math.log(max(positive))
    if high - low < 1e-6:
        low, high = low - 0.05, high + 0.05
    return [math.exp(low + (high - low) * step / _BINS) for step in range(_BINS + 1)]


def _bin(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    places = Counter(bisect_right(edges, value, lo=1, hi=_BINS) for value in values if value > 0)
    return [places[place] for place in range(1, len(edges))]


def _summarise(values: Sequence[float]) -> dict[str, float]:
    """Mean and quantiles; between two values a quantile is interpolated."""
    known = values if len(values) > 1 else [*values, *values]  # fewer than two have no quantiles
    twentieths = statistics.quantiles(known, n=20, method="inclusive")
    places = {"low": 0, "q1": 4, "median": 9, "q3": 14, "high": 18}
    return {"mean": statistics.fmean(values)} | {name: twentieths[place] for name, place in places.items()}
