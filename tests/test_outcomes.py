"""What a phase came to: the same by the rule in Python, by the one in SQL, and wherever it is told."""

from pathlib import Path

import pytest

from reflectune.loop.show.explanations import name_outcome
from reflectune.loop.show.journey import build_journey
from reflectune.state.lineage.evolution import read_evolution
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import OUTCOMES, Outcome, Reason
from tests.lineages import call, decided, make_store, original, propose

# (reason, statuses of the calls) -> outcome; the last call tells.
CASES: tuple[tuple[Reason, tuple[str, ...], Outcome], ...] = (
    ("accepted", ("ok",), "accepted"),
    ("refused", ("ok",), "refused"),
    ("tie", ("ok",), "refused"),
    ("unscorable", ("ok",), "refused"),
    ("policy", ("ok",), "refused"),
    ("frozen", (), "frozen"),
    ("no-candidate", (), "unasked"),
    ("no-candidate", ("cut", "unchanged"), "unchanged"),
    ("no-candidate", ("unchanged", "cut"), "failed"),
)


@pytest.mark.parametrize(("reason", "statuses", "outcome"), CASES)
def test_outcome_is_the_same_everywhere(
    tmp_path: Path, reason: Reason, statuses: tuple[str, ...], outcome: Outcome
) -> None:
    with make_store(tmp_path / "lineage.db", train=1) as store:
        store.start_round(1)
        new = None
        if statuses == ("ok",):
            new = propose(store, original("a"), "new", round=1, phase="instruction")
        else:
            calls = [call("a", 1, "instruction", number, status) for number, status in enumerate(statuses, 1)]
            store.add_reflections(calls, [])
        made = decided(original("a"), new, reason=reason, phase="instruction", values=(0.5, 0.5))
        store.add_decisions({}, "s0", [made])
    with LineageReader.open(tmp_path / "lineage.db") as history:
        row = history.db.execute("SELECT last_status, outcome FROM outcomes").fetchone()
        assert row == (statuses[-1] if statuses else None, outcome)
        place = read_evolution(history)["acceptance"][0]
        (step,) = build_journey(history.trace("a")).steps
    assert {name for name in OUTCOMES if place[name]} == {outcome}
    assert step.outcome == outcome


def test_outcomes_are_said_in_words() -> None:
    assert {name_outcome(outcome) for outcome in (*OUTCOMES, "undecided")} == {
        "accepted", "refused", "unchanged", "failed", "left alone", "not asked", "not decided yet",
    }  # fmt: skip
