"""What the checker says about a run, on a lineage worked out by hand."""

from pathlib import Path

import pytest
from rich.console import Console

from reflectune.loop.demo.account import account_for, judge_phase, mended_sample, render_account
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import Evaluation, Pair, Phase, Proposed, Sample, StudentRecord, Version
from tests.lineages import call, decided

WRONG, RIGHT, VAGUE = Pair("Shout cat.", "", "cat"), Pair("Shout cat.", "", "CAT"), Pair("Cat?", "", "CAT")


def test_judge_phase_counts_what_was_mended_and_damaged() -> None:
    judged = judge_phase(
        Proposed(0, before, after, accepted)
        for before, after, accepted in (
            (WRONG, RIGHT, True),  # mended
            (VAGUE, RIGHT, True),  # mended
            (RIGHT, WRONG, True),  # damaged
            (WRONG, WRONG, True),
            (WRONG, RIGHT, False),  # refused, though it would have mended the pair
            (WRONG, WRONG, False),
            (RIGHT, RIGHT, False),
            (WRONG, VAGUE, True),  # nobody can say
            (RIGHT, VAGUE, False),
        )
    )
    rightly = pytest.approx(2 / 3)
    assert judged == {"accepted_right": 2 / 4, "refused_rightly": rightly, "mended": 2, "damaged": 1}
    nothing = {"accepted_right": None, "refused_rightly": None, "mended": 0, "damaged": 0}
    assert judge_phase([]) == nothing


@pytest.fixture
def history(tmp_path: Path) -> LineageReader:
    """Three samples, one round.

    Sample 0 is mended in both phases' course (instruction refused, response accepted), 1 is right and
    stays, 2 is wrong and damaged further (a wrong response accepted).
    """
    pairs = [WRONG, RIGHT, Pair("Shout dog.", "", "dog")]
    with LineageWriter.create(tmp_path / "lineage.db") as store:
        store.add_run({"name": "demo", "rounds": 1, "seed": 0}, data_hash="", versions={})
        samples = [Sample(str(index), index, "train", pair) for index, pair in enumerate(pairs)]
        store.add_samples(samples)
        store.start_round(0)
        store.add_student(StudentRecord("s0", 0, "base", None, None, None, None))
        store.add_evaluations(0, "s0", [Evaluation("accuracy", 0.1, 40, 0.04, 0.23)])
        store.finish_round(0, None)
        store.start_round(1)
        old = [Version(str(index), None, 0, "original", 0, pair) for index, pair in enumerate(pairs)]

        def propose(parent: Version, phase: Phase, pair: Pair) -> Version:
            made = call(parent.sample_id, 1, phase)
            version = Version(parent.sample_id, parent.id, 1, phase, 0, pair, made.id)
            store.add_reflections([made], [version])
            return version

        unclear = propose(old[0], "instruction", VAGUE)
        instruction = [decided(old[0], unclear, reason="refused", phase="instruction")]
        instruction += [decided(version, phase="instruction") for version in old[1:]]
        store.add_decisions({}, "s0", instruction)
        mended = propose(old[0], "response", RIGHT)
        worse = propose(old[2], "response", Pair("Shout dog.", "", "DO"))
        response = [decided(old[0], mended, reason="accepted"), decided(old[1])]
        store.add_decisions({}, "s0", [*response, decided(old[2], worse, reason="accepted")])
        store.set_training_set(1, [mended.id])
        store.add_student(StudentRecord("s1", 1, "base", None, "adapters/round-01", "h", "s0"))
        store.add_evaluations(1, "s1", [Evaluation("accuracy", 0.6, 40, 0.45, 0.74)])
        store.finish_round(1, "rounds")
    return LineageReader.open(tmp_path / "lineage.db")


def test_account_says_what_is_right_and_how_it_was_selected(history: LineageReader) -> None:
    with history:
        zero, one = account_for(history)
    assert zero["pool_right"] == pytest.approx(1 / 3)
    assert zero["exact_match"] == {"value": 0.1, "low": 0.04, "high": 0.23, "n": 40}
    assert zero["response"]["accepted_right"] is None
    assert one["pool_right"] == pytest.approx(2 / 3)
    assert one["exact_match"]["value"] == 0.6
    assert one["instruction"] | {"refused_rightly": None, "accepted_right": None} == one["instruction"]
    assert one["response"] | {"accepted_right": 0.5, "mended": 1, "damaged": 0} == one["response"]
    assert one["training"] == 1


def test_render_account_shows_every_round_at_80_columns(history: LineageReader) -> None:
    with history:
        documents = account_for(history)
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(render_account(documents))
    text = capture.get()
    assert "60% (45% to 74%)" in text
    assert "67%" in text
    assert "…" not in text


def test_mended_sample_was_mended_and_trained_on(history: LineageReader, tmp_path: Path) -> None:
    with history:
        trace = mended_sample(history)
    assert trace is not None
    assert (trace["position"], trace["trained_in"]) == (0, [1])
    with LineageWriter.create(tmp_path / "new.db") as store:
        store.add_run({"name": "demo", "rounds": 1, "seed": 0}, data_hash="", versions={})
        store.start_round(0)
    with LineageReader.open(tmp_path / "new.db") as nothing:
        assert mended_sample(nothing) is None
