"""The demo in English: its data, what the verdicts say of a lineage worked out by hand, and the command."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from reflectune.loop.demo.english.account import describe_rounds, raised_sample, render_account
from reflectune.loop.demo.english.demo import ANSWERS
from reflectune.loop.demo.english.verdicts import Answer, Judged, Verdicts, account_for, read_judged
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import StudentRecord
from tests.lineages import decide, decided, given, make_store, original, propose
from tests.tiny_models import save_tiny_llama
from tests.worlds import reflectune

UNIT = math.log(4)  # log-odds of 0.8, less those of 0.5


def test_answers_are_72_instructions_with_three_answers_as_the_notice_says() -> None:
    judged = read_judged(ANSWERS)
    assert len({row.instruction for row in judged}) == len(judged) == 72
    worse = [0, 0]
    for row in judged:
        assert len(row.instruction) <= 300
        assert len({answer.response.strip() for answer in row.answers}) == 3
        assert all(0 < len(answer.response) <= 1200 for answer in row.answers)
        for round, (before, after) in enumerate(pairwise(row.answers)):
            assert before.verdict != after.verdict
            worse[round] += after.verdict < before.verdict
    assert worse == [17, 21]
    assert all(0.2 <= number / 72 <= 0.4 for number in worse)


# By sample: wins of what is given and what is proposed, whether that is accepted, and whether it is as long.
CASES = {
    "a": (0.2, 0.8, True, True),
    "b": (0.5, 0.2, True, False),
    "c": (0.5, 0.2, False, True),
    "d": (0.2, 0.5, False, False),
    "e": (0.2, 0.99, True, True),  # the largest rise, but nobody was trained on it
    "f": (0.1, 0.9, True, True),  # the next, but a better answer was refused
    "g": (0.5, 0.6, False, True),  # no clear difference
}
BETTER = Answer("best", "the longest and best of them: f", 0.95)


@pytest.fixture
def history(tmp_path: Path) -> LineageReader:
    trained: list[str] = []
    with make_store(tmp_path / "lineage.db", train=len(CASES)) as store:
        store.start_round(1)
        for sample, (_, _, accepted, _) in CASES.items():
            new = propose(store, original(sample), proposal(sample), round=1, phase="response")
            reason = "accepted" if accepted else "refused"
            decide(store, decided(original(sample), new, reason=reason))
            if sample in "af":
                trained.append(new.id)
        propose(store, original("f"), BETTER.response, round=1, phase="response", candidate=1)
        store.set_training_set(1, trained)
        store.add_student(StudentRecord("s1", 1, "base", None, "adapters/round-01", "h", "s0"))
        store.finish_round(1, "rounds")
    return LineageReader.open(tmp_path / "lineage.db")


def proposal(sample: str) -> str:
    return f"{'other ' if CASES[sample][3] else 'a much longer one: '}{sample}"


@pytest.fixture
def verdicts() -> Verdicts:
    return Verdicts(
        Judged(
            given(sample).instruction,
            (Answer("weak", given(sample).response, old), Answer("strong", proposal(sample), new), BETTER),
        )
        for sample, (old, new, _, _) in CASES.items()
    )


def test_account_says_what_acceptances_raised_and_refusals_spared(
    history: LineageReader, verdicts: Verdicts
) -> None:
    with history:
        zero, one = account_for(history, verdicts)
    assert zero["verdict"] == pytest.approx((-UNIT + 0 + 0 - UNIT - UNIT - math.log(9) + 0) / 7)
    assert (zero["judged"], zero["raised"], zero["spared"]) == (7, None, None)
    assert one["verdict"] == pytest.approx((UNIT - UNIT + 0 - UNIT + math.log(99) + math.log(9) + 0) / 7)
    of_all = UNIT - UNIT - UNIT + 0 + math.log(99) + math.log(9) + math.log(19) + math.log(1.5)
    assert (zero["proposed"], one["proposed"]) == (None, pytest.approx(of_all / 8))
    assert (one["accepted"], one["raised"]) == (4, 3 / 4)
    assert (one["refused"], one["spared"]) == (3, pytest.approx(1 / 3))
    assert one["at_like_length"] == {"accepted": 3, "raised": 1.0, "refused": 1, "spared": 1.0}


def test_raised_sample_is_the_largest_rise_to_a_best_answer_that_was_trained_on(
    history: LineageReader, verdicts: Verdicts
) -> None:
    with history:
        found = raised_sample(history, verdicts)
        assert raised_sample(history, Verdicts([])) is None
    assert found is not None
    rise, trace = found
    assert rise == {
        "round": 1,
        "before": {"model": "weak", "verdict": pytest.approx(-UNIT)},
        "after": {"model": "strong", "verdict": pytest.approx(UNIT)},
    }
    assert (trace["position"], trace["trained_in"]) == (0, [1])


def test_render_account_shows_each_round_at_80_columns(history: LineageReader, verdicts: Verdicts) -> None:
    with history:
        rounds = describe_rounds(history, verdicts)
    assert [row["verdicts"]["round"] for row in rounds] == [0, 1]
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(render_account(rounds))
    (row,) = (line for line in capture.get().splitlines() if " 4/7 " in line)
    assert " ".join(row.split()) == "1 4/7 75% 33% 100% of 3 100% of 1 -0.91 0.77 1.09"
    assert "…" not in capture.get()


@pytest.mark.slow
def test_demo_runs_a_student_to_its_end_and_tells_what_the_verdicts_say(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "student", chat=True)
    words = ("demo-english", "--model", "student", "--rounds", 1)
    result = reflectune(*words, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    zero, one = document["rounds"]
    assert zero["verdicts"]["judged"] == one["verdicts"]["judged"] == one["pool"] == 60
    assert one["response"]["reflected"] == 60
    assert 0 < one["verdicts"]["accepted"] + one["verdicts"]["refused"] < 60
    assert (one["instruction"]["unchanged"], one["instruction"]["failed"]) == (60, 0)
    again = reflectune(*words, cwd=tmp_path, COLUMNS="200")
    assert "has run before" in again.stderr
    assert "A verdict: a judge's" in again.stdout
    assert f"demo-english --model {tmp_path / 'student'} --policy accept-all --rounds 1" in again.stdout
    save_tiny_llama(tmp_path / "other", chat=True)
    other = reflectune(*words[:2], "other", *words[3:], cwd=tmp_path)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "is of the model" in other.stderr


@pytest.mark.slow
def test_demo_says_in_one_line_that_there_is_no_such_model(tmp_path: Path) -> None:
    result = reflectune("demo-english", "--model", "nobody/nothing", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "nobody/nothing" in result.stderr
    assert "by --model" in result.stderr
    assert not list((tmp_path / "runs").rglob("*"))
