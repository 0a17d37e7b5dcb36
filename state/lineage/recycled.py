"""What a run made of its data, record by record, to be exported."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import filterfalse, groupby
from typing import Any

from reflectune.state.data.conversations import user_turn
from reflectune.state.data.exports import Exported, retell
from reflectune.state.groups import in_groups
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.policies import find_policy
from reflectune.state.records import Turn

__all__ = ["read_pool", "read_pool_pairs", "read_preferences", "read_training"]

_AT_ONCE = 500  # rows whose contexts one question asks about
Row = Mapping[str, Any]

# What the view `pool` says, looked up sample by sample in the order of the data.
_POOL = """
    samples CROSS JOIN versions ON versions.id = CASE WHEN samples.split = 'train' AND :round > 0
        THEN (SELECT winner_id FROM decisions
            WHERE round = :round AND phase = 'response' AND sample_id = samples.id)
        ELSE (SELECT id FROM versions
            WHERE sample_id = samples.id AND round = 0 AND phase = 'original') END
"""


def read_pool(lineage: LineageReader, round: int, *, holdout: bool = False) -> Iterator[Exported]:
    """The given records with what the pool D[r] has of them, in the order of the data.

    A conversation is one record, whole: the exchanges that samples are made of stand in their places as D[r]
    has them, all other turns as they were given.

    Args:
        lineage: of the run.
        round: r.
        holdout: whether the held-out records are among them, as given.
    """
    splits = "('train', 'holdout')" if holdout else "('train')"
    rows = lineage.db.query(
        f"""
        SELECT samples.id, samples.position, samples.split, samples.meta, samples.turn,
            COALESCE(samples.conversation_id, -1 - samples.position) AS record,
            CASE WHEN samples.conversation_id = samples.position THEN conversations.turns END AS turns,
            versions.id AS version, versions.instruction, versions.input, versions.response
        FROM {_POOL}
        LEFT JOIN conversations ON conversations.id = samples.conversation_id
        WHERE samples.split IN {splits} ORDER BY samples.position
        """,
        {"round": round},
    )
    for _, group in groupby(rows, key=lambda row: row["record"]):
        yield _join(list(group), round)


def _join(samples: Sequence[Row], round: int) -> Exported:
    """The conversation that some samples come of, with their exchanges put in."""
    first, last = samples[0], samples[-1]
    given = json.loads(first["turns"] or "null") or [
        {"role": role, "content": ""} for role in ("user", "assistant")
    ]
    turns = [Turn.of_message(message) for message in given]
    for sample in samples:
        texts = user_turn(sample["instruction"], sample["input"]), sample["response"]
        for index, text in enumerate(texts, start=sample["turn"]):
            turns[index] = retell(turns[index], text)
    ends_here = last["turn"] + 2 == len(turns)
    return Exported(
        tuple(turns),
        (last["instruction"], last["input"]) if ends_here else None,
        meta=json.loads(first["meta"]),
        sample_ids=tuple(sample["id"] for sample in samples),
        version_ids=tuple(sample["version"] for sample in samples),
        round=round,
        split=first["split"],
    )


def read_pool_pairs(lineage: LineageReader, round: int) -> Iterator[Exported]:
    """The pairs of the pool D[r] with their contexts, one a sample, in the order of the data."""
    return _read_pairs(
        lineage,
        f"""
        SELECT :round AS round, samples.id AS sample_id, samples.meta, versions.id AS version,
            versions.instruction, versions.input, versions.response, NULL AS rejected, NULL AS loser,
            NULL AS policy
        FROM {_POOL} WHERE samples.split = 'train' ORDER BY samples.position
        """,
        round,
    )


def read_training(lineage: LineageReader, round: int) -> Iterator[Exported]:
    """The pairs of the training set T[r] with their contexts, as they were trained on, by rank."""
    return _read_pairs(
        lineage,
        """
        SELECT training_sets.round, samples.id AS sample_id, samples.meta, versions.id AS version,
            versions.instruction, versions.input, versions.response, NULL AS rejected, NULL AS loser,
            NULL AS policy
        FROM training_sets
        JOIN versions ON versions.id = training_sets.version_id
        JOIN samples ON samples.id = versions.sample_id
        WHERE training_sets.round = :round ORDER BY training_sets.rank
        """,
        round,
    )


def read_preferences(lineage: LineageReader, round: int) -> Iterator[Exported]:
    """What the response phases up to a round decided: winner chosen, loser rejected.

    Only decisions that compared two responses to the same prompt count: accepted and refused ones, not ties,
    unscorable pairs, control arms that look at nothing, or proposals refused for their length alone.
    """
    return _read_pairs(
        lineage,
        """
        SELECT decisions.round, samples.id AS sample_id, samples.meta, winner.id AS version,
            winner.instruction, winner.input, winner.response, loser.response AS rejected, loser.id AS loser,
            decisions.policy, decisions.reason, decisions.winner_value, CASE decisions.reason WHEN 'accepted'
                THEN decisions.incumbent_value ELSE decisions.challenger_value END AS loser_value
        FROM decisions
        JOIN samples ON samples.id = decisions.sample_id
        JOIN versions AS winner ON winner.id = decisions.winner_id
        JOIN versions AS loser ON loser.id = CASE decisions.reason
            WHEN 'accepted' THEN decisions.incumbent_id ELSE decisions.challenger_id END
        WHERE decisions.phase = 'response' AND decisions.reason IN ('accepted', 'refused')
            AND decisions.incumbent_value IS NOT NULL AND decisions.round <= :round
        ORDER BY decisions.round, samples.position
        """,
        round,
    )


def _read_pairs(lineage: LineageReader, query: str, round: int) -> Iterator[Exported]:
    rows = lineage.db.query(query, {"round": round})
    for page in in_groups(filterfalse(_is_refused_for_length, rows), _AT_ONCE):
        for row, (pair, given) in zip(page, lineage.read_exchanges(page), strict=True):
            yield Exported.of_pair(
                pair,
                given,
                rejected=row["rejected"],
                meta=json.loads(row["meta"]),
                sample_ids=(row["sample_id"],),
                version_ids=tuple(filter(None, (row["version"], row["loser"]))),
                round=row["round"],
                scores=_scores(row),
            )


def _is_refused_for_length(row: Row) -> bool:
    scores = _scores(row)
    if scores is None or row["reason"] != "refused":
        return False
    return find_policy(row["policy"]).is_refused_for_length(scores[1] - scores[0])


def _scores(row: Row) -> tuple[float, float] | None:
    """What the policy compared, chosen and rejected, with the sign that makes the higher one the better."""
    measure = None if row["policy"] is None else find_policy(row["policy"]).measure("response")
    if measure is None:
        return None
    return measure.sign * row["winner_value"], measure.sign * row["loser_value"]
