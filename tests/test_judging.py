"""A judge behind a real server, over a real lineage: asked once, in both orders, and never paid twice."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reflectune.agents.judge.judge import open_judge
from reflectune.loop.context import LoopContext
from reflectune.loop.judging import find_opponents, judge_student, measure_student
from reflectune.loop.progress import LineDisplay
from reflectune.state.cache import AnswerCache
from reflectune.state.config import JudgeConfig, RunConfig
from reflectune.state.errors import TeacherError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.judging import find_comparisons
from reflectune.state.records import Evaluation, HeldOutAnswer, StudentRecord
from tests.lineages import make_store
from tests.teacher_server import Reply, ReplyFunction, TeacherServer, prompt_of, serve_teacher

SAMPLES = "bcdefghi"  # held out
PLAIN, GOOD = "So it is.", "So it is, and this is good to know."


def shown(request: dict[str, Any]) -> list[str]:
    """The answers that a prompt shows, in their order."""
    return re.findall(r"<answer-(?:A|B)-\w+>\n(.*?)\n</answer", prompt_of(request), re.DOTALL)


def honest(request: dict[str, Any], number: int) -> Reply:
    """Whatever is good is better, wherever it stands."""
    first, second = ("good" in text for text in shown(request))
    return Reply(f"Read both.\n[[{'tie' if first == second else 'A' if first else 'B'}]]")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator["Scene"]:
    with ExitStack() as stack:
        yield Scene(tmp_path, stack)


class Scene:
    """A run whose students s0, s1 and s2 have answered; s1 is good at half of the samples, s2 at all."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack

    def serve(self, reply: ReplyFunction = honest) -> TeacherServer:
        return self.stack.enter_context(serve_teacher(reply))

    def open(self, server: TeacherServer, name: str = "run", **judge: Any) -> "Judging":
        (self.folder / name).mkdir()
        store = self.stack.enter_context(make_store(self.folder / name / "lineage.db", 1, len(SAMPLES)))
        for number in (1, 2):
            store.start_round(number)
            store.add_student(StudentRecord(f"s{number}", number, "base", None, "a", "h", None))
        for student, good in (("s0", ""), ("s1", "bcde"), ("s2", SAMPLES)):
            texts = ((sample, GOOD if sample in good else f"{PLAIN} {student}") for sample in SAMPLES)
            store.add_answers(student, (HeldOutAnswer(sample, text, 3, None) for sample, text in texts))
        settings = {
            "engine": "openai",
            "model": "wise",
            "base_url": server.url,
            "price_in": 1,
            "price_out": 2,
        }
        config = RunConfig.model_validate(
            {
                "name": name,
                "data": {"path": "data.json", "holdout": len(SAMPLES)},
                "teacher": {"engine": "recorded", "path": "teacher.jsonl"},
                "student": {"model": "student"},
                "judge": settings | judge,
            }
        )
        cache = self.stack.enter_context(AnswerCache.open(self.folder))
        return Judging(
            LoopContext(
                config=config,
                folder=RunFolder(self.folder / name),
                lineage=store,
                display=LineDisplay(),
                checker=None,
                open_teacher=lambda student: None,  # type: ignore[arg-type,return-value]
                open_students=lambda adapter: None,  # type: ignore[arg-type,return-value]
                open_judge=partial(open_judge, cache=cache),
            )
        )


class Judging:
    def __init__(self, context: LoopContext) -> None:
        self.context, self.store = context, context.lineage
        assert context.config.judge is not None
        self.config: JudgeConfig = context.config.judge

    def judge(self, number: int = 1) -> dict[str, Evaluation]:
        """Judge a student's answers, and tell its win rates."""
        judge_student(self.context, self.config, number, f"s{number}", SAMPLES)
        return {item.name: item for item in measure_student(self.store, self.config, f"s{number}")}

    def rows(self, columns: str = "*", where: str = "1") -> list[tuple[Any, ...]]:
        return self.store.db.execute(f"SELECT {columns} FROM judge_calls WHERE {where}").fetchall()


@pytest.mark.slow
def test_answers_are_compared_in_both_orders_and_calls_kept(scene: Scene) -> None:
    server = scene.serve()
    judging = scene.open(server, against=["s0", "references"], extra_body={"top_k": 1})
    rates = judging.judge()
    # Against s0 four wins and four ties; the references are not good, and the instruction is the same.
    assert {name: (item.value, item.n) for name, item in rates.items() if name[0] == "w"} == {
        "win_rate_s0": (0.75, 8),
        "win_rate_references": (0.75, 8),
    }
    assert len(server.requests) == 2 * 2 * len(SAMPLES)
    asked = {tuple(shown(request)) for request in server.requests if "ask b" in prompt_of(request)}
    assert asked == {(GOOD, f"{PLAIN} s0"), (f"{PLAIN} s0", GOOD), (GOOD, "answer b"), ("answer b", GOOD)}
    assert server.requests[0]["top_k"] == 1
    assert judging.rows("verdict", "opponent = 's0' AND sample_id = 'b' ORDER BY swapped") == [
        ("first",),
        ("second",),
    ]
    assert judging.rows("DISTINCT text, status", "verdict = 'tie'") == [("Read both.\n[[tie]]", "ok")]
    tokens, usd = judging.rows("SUM(prompt_tokens + completion_tokens), SUM(cost_usd)")[0]
    assert (judging.store.spending("judge_calls").tokens, judging.store.spending().tokens) == (tokens, 0)
    assert usd == pytest.approx(judging.rows("SUM(prompt_tokens + 2 * completion_tokens) / 1e6")[0][0])
    told = judging.store.round(1)["judge"]
    assert told is not None
    assert told["calls"] | {"cost_usd": None} == {
        "calls": 32, "cached": 0, "cost_usd": None, "completion_tokens": 96,
        "prompt_tokens": tokens - 96,
    }  # fmt: skip
    contest = {"wins": 4, "ties": 4, "losses": 0, "disagreed": 0, "undecided": 0}
    assert told["contests"] == [{"opponent": name} | contest for name in ("references", "s0")]
    assert judging.judge() == rates
    assert len(server.requests) == 32


def test_position_biased_judge_comes_to_half_with_ties_alone(scene: Scene) -> None:
    judging = scene.open(scene.serve(lambda request, number: Reply("The first.\n[[A]]")), against=["s0"])
    rates = judging.judge(2)
    assert [item.value for item in rates.values()] == pytest.approx([0.5, 0.5])
    told = judging.store.round(2)["judge"]
    assert told is not None
    assert told["contests"][0]["disagreed"] == len(SAMPLES)


@pytest.mark.slow
def test_opponents_are_the_base_student_and_the_one_before(scene: Scene) -> None:
    judging = scene.open(scene.serve(), against=["previous", "s0", "references"])
    assert find_opponents(judging.store, judging.config, "s0") == {"references": "references"}
    assert find_opponents(judging.store, judging.config, "s1")["previous"] == "s0"
    assert find_opponents(judging.store, judging.config, "s2")["previous"] == "s1"
    judging.judge(1)
    assert len(judging.rows()) == 2 * 2 * len(SAMPLES), "s0 is asked about once"
    assert judging.judge(2)["win_rate_previous"].value == 0.75  # of 8: 4 equal answers, 4 wins


def test_equal_answers_are_a_tie_that_nobody_is_asked_about(scene: Scene) -> None:
    server = scene.serve()
    judging = scene.open(server, against=["previous"])
    judging.judge(2)
    assert len(server.requests) == 2 * 4
    assert judging.rows("DISTINCT verdict, cached, cost_usd", "prompt_hash = ''") == [("tie", 1, 0.0)]


@pytest.mark.slow
def test_judging_that_was_killed_goes_on_and_pays_nothing_twice(scene: Scene) -> None:
    server = scene.serve()
    calm = scene.open(server, "calm", cache="off")
    wanted = calm.judge()
    paid = len(server.requests)
    judging = scene.open(server, "killed", cache="off", concurrency=1)
    add, left = judging.store.add_judge_calls, iter(range(7))

    def add_or_die(calls: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        add(calls)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging.store, "add_judge_calls", add_or_die)
        with pytest.raises(KeyboardInterrupt):
            judging.judge()
    assert len(judging.rows()) == 7
    assert judging.judge() == wanted
    assert len(server.requests) - paid == paid + 1, "the answer in flight is lost, and no other"
    columns = "sample_id, opponent, swapped, attempt, prompt_hash, text, verdict, cost_usd"
    assert sorted(judging.rows(columns)) == sorted(calm.rows(columns))


def test_cached_answers_cost_nothing(scene: Scene) -> None:
    server = scene.serve()
    first = scene.open(server, "first").judge()
    paid = len(server.requests)
    again = scene.open(server, "again", budget_tokens=1)
    assert again.judge() == first
    assert len(server.requests) == paid
    assert again.rows("DISTINCT cached, cost_usd") == [(1, 0.0)]


def test_budget_ends_the_judging_with_whole_samples(scene: Scene) -> None:
    server = scene.serve()
    judging = scene.open(server, budget_tokens=1000, concurrency=1, against=["s0", "references"])
    rates = judging.judge()
    spent, asked = judging.store.spending("judge_calls").tokens, len(server.requests)
    assert 1000 <= spent < 1000 + 1000
    assert 0 < asked < 4 * len(SAMPLES)
    assert {item.n for item in rates.values()} <= {asked // 4, asked // 4 + 1}
    judging.judge()
    assert len(server.requests) == asked


def test_answers_without_a_verdict_are_asked_again_and_never_count(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    def moody(request: dict[str, Any], number: int) -> Reply:
        text = prompt_of(request)
        if "ask b" in text:
            return Reply("I cannot say.")
        if "ask c" in text:
            return Reply("[[A]]", finish_reason="length")
        return Reply(status=400) if "ask d" in text else honest(request, number)

    judging = scene.open(scene.serve(moody), retries=1, against=["s0"])
    rates = judging.judge()
    assert rates["win_rate_s0"].n == len(SAMPLES) - 3
    assert rates["win_rate_s0"].value == (1 + 4 * 0.5) / 5
    counts = dict(judging.rows("status || sample_id, COUNT(*)", "status <> 'ok' GROUP BY 1"))
    assert counts == {"unparsableb": 4, "cutc": 4, "refusedd": 2}
    assert "no verdict in 6 of 16 calls" in capsys.readouterr().err
    told = judging.store.round(1)["judge"]
    assert told is not None
    assert told["contests"][0]["undecided"] == 3


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (lambda request, number: Reply(status=401), "judge wise at http://127.*judge.api_key_env"),
        (lambda request, number: Reply(status=500), "judge wise: 9 calls in a row failed"),
    ],
)
def test_judge_that_answers_nothing_ends_the_run_and_costs_no_sample(
    reply: Callable[..., Reply], message: str, scene: Scene
) -> None:
    judging = scene.open(scene.serve(reply), retries=0, wait=0, concurrency=1)
    with pytest.raises(TeacherError, match=message):
        judging.judge()
    assert judging.rows() == []


def test_judge_that_nobody_answers_for_is_given_up_at_once(scene: Scene) -> None:
    with serve_teacher() as gone:
        judging = scene.open(gone, retries=1, wait=0, concurrency=8)
    with pytest.raises(TeacherError, match="judge wise: cannot be reached"):
        judging.judge()
    assert judging.rows() == []


def test_few_comparisons_that_all_fail_are_settled_and_asked_no_more(scene: Scene) -> None:
    server = scene.serve(lambda request, number: Reply(status=400))
    judging = scene.open(server, retries=0, against=["s0"])
    for _ in range(2):
        judge_student(judging.context, judging.config, 1, "s1", "b")
    assert judging.rows("status, verdict") == [("refused", None)] * 2
    assert len(server.requests) == 2


def test_judging_that_is_stopped_among_failures_is_no_fault_of_the_judge(scene: Scene) -> None:
    judging = scene.open(scene.serve(lambda request, number: Reply(status=500)), retries=0, concurrency=1)
    missing = (asked for asked, _ in find_comparisons(judging.store, "s1", ["s0"], SAMPLES, attempts=1))
    may_ask = iter([True, True])
    with open_judge(judging.config) as judge:
        groups = list(judge.compare(missing, lambda: next(may_ask, False)))
    assert [call.status for group in groups for call in group] == ["error"] * 2


def test_answers_without_a_text_are_kept_where_the_judge_is_given_up(scene: Scene) -> None:
    """They have been paid for, those that were under way too."""
    server = scene.serve(lambda request, number: Reply(""))
    judging = scene.open(server, retries=0, concurrency=4, cache="off")
    with pytest.raises(TeacherError, match="calls in a row failed: no text"):
        judging.judge()
    assert len(judging.rows()) == len(server.requests) >= 9
    assert judging.rows("*", "completion_tokens IS NULL") == []


def test_samples_without_an_answer_are_not_counted(scene: Scene) -> None:
    judging = scene.open(scene.serve(), against=["s0"])
    unanswered = "UPDATE held_out_answers SET text = NULL, num_tokens = NULL"
    judging.store.db.execute(f"{unanswered} WHERE student_id = 's0' AND sample_id = 'b'")

    def count_settled(attempts: int) -> tuple[int, int]:
        settled = [settled for _, settled in find_comparisons(judging.store, "s1", ["s0"], SAMPLES, attempts)]
        return sum(settled), len(settled)

    assert count_settled(2) == (0, 14)
    judging.judge()
    assert count_settled(2) == (14, 14)
    judging.store.db.execute(
        "UPDATE judge_calls SET status = 'error', verdict = NULL, attempt = 2 WHERE sample_id = 'c'"
    )
    assert [count_settled(most)[0] for most in (1, 2, 3)] == [14, 14, 12]


@pytest.mark.slow
def test_a_judge_that_only_fails_is_found_out_among_answers_of_the_cache(scene: Scene) -> None:
    scene.open(scene.serve(), "paid", against=["s0"]).judge(2)
    failing = scene.serve(lambda request, number: Reply(status=500))
    judging = scene.open(failing, "again", against=["s0", "references"], retries=0, concurrency=1)
    with pytest.raises(TeacherError, match="9 calls in a row failed"):
        judging.judge(2)
    assert judging.rows("DISTINCT opponent, cached") == [("s0", 1)]
