"""The nodes over a real store and a real recorded teacher; only the student's numbers are made up."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pytest
from langgraph.runtime import Runtime

from reflectune.agents.pool import LocalPool
from reflectune.agents.student.answering import Response
from reflectune.agents.teacher.teacher import open_teacher
from reflectune.loop.context import LoopContext, LoopState
from reflectune.loop.nodes.evaluate import evaluate, evaluate_round, score_base_samples
from reflectune.loop.nodes.refinetune import refinetune
from reflectune.loop.nodes.reflect import reflect
from reflectune.loop.nodes.select import select
from reflectune.loop.progress import LineDisplay
from reflectune.loop.show.documents import describe_signal
from reflectune.loop.signals import Interrupted
from reflectune.state.config import RunConfig, load_config
from reflectune.state.data.datasets import assign_samples, read_dataset
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import PHASES, TERMS, Pair, Phase, Reflection, Score, StudentRecord, Term
from tests.worlds import write_world

Scorer = Callable[[Pair, Term], Score]


def prefers_proposals(pair: Pair, term: Term) -> Score:
    """Nll of 2 nats per token; proposals have a higher IFD and a lower r-IFD, later ones most of all."""
    shift = {"response_given_instruction": 0.5, "instruction_given_response": -0.5}.get(term, 0.0)
    steps = 2 * pair.response.startswith("Here are") + pair.response.startswith("There are")
    return Score(-10 * (2 + shift * steps), 10, "ok")


def is_proposed(pair: Pair) -> bool:
    return pair.response.startswith(("There are", "Here are"))


@dataclass
class FakeStudent:
    """A student with invented scores that notes what it is asked."""

    at_once = 2
    scorer: Scorer = prefers_proposals
    asked: list[tuple[Pair, Term]] = field(default_factory=list)
    opened: list[Path | None] = field(default_factory=list)
    closed: int = 0
    fails_after: int | None = None  # calls of score
    answered: list[Pair] = field(default_factory=list)

    def score(self, questions: Sequence[tuple[Pair, Term]]) -> list[Score]:
        if self.fails_after is not None:
            self.fails_after -= 1
            if self.fails_after < 0:
                raise KeyboardInterrupt
        self.asked += questions
        return [self.scorer(pair, term) for pair, term in questions]

    def respond(self, pairs: Sequence[Pair], max_tokens: int) -> list[Response | None]:
        self.answered += pairs
        return [Response("word " * max_tokens, max_tokens) for _ in pairs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.closed += 1


@dataclass
class World:
    context: LoopContext
    student: FakeStudent
    trained: list[dict[str, Any]] = field(default_factory=list)

    @property
    def store(self) -> LineageWriter:
        return self.context.lineage

    def runtime(self) -> Runtime[LoopContext]:
        return Runtime(context=self.context)

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        return list(self.store.db.query(query, parameters))

    def through(self, round: int, *phases: Phase) -> None:
        """Reflect and select in the given phases of a round, in both where none is given."""
        for phase in phases or PHASES:
            reflect(state(round, phase), self.runtime())
            select(state(round, phase), self.runtime())

    def whole(self, round: int) -> dict[str, object]:
        """A whole round, and what its last node says."""
        self.through(round)
        refinetune(state(round), self.runtime())
        return evaluate(state(round), self.runtime())


def state(round: int = 1, phase: Phase = "instruction") -> LoopState:
    return {"run": "tiny", "round": round, "phase": phase, "student": "s0", "stop_reason": None}


def make_world(folder: Path, student: FakeStudent | None = None, **sections: Any) -> World:
    config = load_config(write_world(folder, **sections))
    student = student or FakeStudent()
    run = RunFolder(folder / "run")
    run.path.mkdir()
    store = LineageWriter.create(run.lineage)
    store.add_run({"name": "tiny", "seed": 0}, data_hash="", versions={})
    store.add_samples(assign_samples(read_dataset(config.data), config.data.holdout, config.seed))
    store.start_round(0)
    store.add_student(StudentRecord("s0", 0, "base", None, None, None, None))

    def open_student(adapter: Path | None) -> Any:
        student.opened.append(adapter)
        return student

    world = World(None, student)  # type: ignore[arg-type]

    def train(config: RunConfig, pairs: Sequence[Pair], out: Path, **options: Any) -> dict[str, float]:
        world.trained.append({"pairs": list(pairs), **options})
        out.mkdir(parents=True)
        (out / "adapter_model.safetensors").write_bytes(b"weights")
        (out / "adapter_config.json").write_bytes(b"{}")
        options["on_step"](1, 1, 0.5)
        return {"train_loss": 0.5, "pairs": len(pairs), "truncated": 1}

    world.context = LoopContext(
        config=config,
        folder=run,
        lineage=store,
        display=LineDisplay(),
        checker=None,
        open_teacher=lambda student: open_teacher(config.teacher, config.seed),
        open_students=lambda adapter: LocalPool(lambda: open_student(adapter)),
        refinetune_student=train,
    )
    return world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = make_world(tmp_path)
    yield world
    world.store.db.close()


def test_reflect_stores_every_call_and_proposal_once(world: World) -> None:
    reflect(state(), world.runtime())
    calls = world.rows("SELECT * FROM teacher_calls")
    proposals = world.rows("SELECT * FROM versions WHERE phase = 'instruction'")
    answered = [call for call in calls if call["status"] == "ok"]
    assert len(calls) == 34  # 40 samples less 6 held out
    assert {call["status"] for call in calls} == {"ok", "no-entry"}
    assert len(proposals) == len(answered) < 34
    assert {row["teacher_call_id"] for row in proposals} == {call["id"] for call in answered}
    assert all(row["input"] == "" and row["instruction"].startswith("List ") for row in proposals)

    def refuse(student: StudentRecord) -> Any:
        raise AssertionError("nothing is missing, so no teacher may be opened")

    reflect(state(), Runtime(context=replace(world.context, open_teacher=refuse)))
    assert world.rows("SELECT * FROM teacher_calls") == calls


@pytest.mark.slow
def test_a_round_asks_about_the_pool_only_and_decides_each_sample_once_with_few_scores(
    tmp_path: Path,
) -> None:
    world = make_world(tmp_path, evaluate={"base_samples": 0})
    world.through(1)
    asked = "SELECT split FROM teacher_calls JOIN samples ON samples.id = sample_id"
    assert {row["split"] for row in world.rows(asked)} == {"train"}
    for phase in PHASES:
        rows = world.rows("SELECT sample_id, reason FROM decisions WHERE phase = ?", phase)
        assert len({row["sample_id"] for row in rows}) == len(rows) == 34
        assert {row["reason"] for row in rows} == {"accepted", "no-candidate"}
    pool = list(world.store.scored_pool(1, "s0"))
    assert len(pool) == 34
    assert all(set(pair.scores) == set(TERMS) for pair in pool)
    assert len(set(world.student.asked)) == len(world.student.asked), "something was scored twice"
    texts = {
        (term, (pair.instruction, pair.input) if term == "instruction_alone" else pair)
        for pair, term in world.student.asked
    }
    # 7 passes for both decisions and 2 for the filter, where there are proposals in both phases.
    assert len(texts) <= 9 * 34


def test_select_opens_no_student_where_nothing_needs_scores(tmp_path: Path) -> None:
    world = make_world(tmp_path, phases=("response",))
    world.through(1, "instruction")
    assert world.student.opened == []
    world.through(1, "response")
    assert world.student.opened == [None]
    assert world.student.closed == 1


def test_select_goes_on_after_an_interruption_where_it_stopped(tmp_path: Path) -> None:
    world = make_world(tmp_path, FakeStudent(fails_after=1), evaluate={"base_samples": 0})
    reflect(state(), world.runtime())
    with pytest.raises(KeyboardInterrupt):
        select(state(), world.runtime())
    assert world.store.count_decisions(1, "instruction") == 32  # one group of two is committed
    assert world.student.closed == 1
    world.student.fails_after = None
    asked = len(world.student.asked)
    # As if an earlier version had begun: it is too late to tell pairs from shuffled ones.
    evaluate = world.context.config.evaluate.model_copy(update={"base_samples": 34})
    config = world.context.config.model_copy(update={"evaluate": evaluate})
    select(state(), Runtime(context=replace(world.context, config=config)))
    assert world.store.count_decisions(1, "instruction") == 34
    assert len(world.student.asked) - asked <= 2 * 4
    assert describe_signal(world.store) is None


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [False, True])
def test_before_the_first_decision_the_student_tells_pairs_from_shuffled_ones(
    tmp_path: Path, overlap: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def score(pair: Pair, term: Term) -> Score:
        colour = pair.instruction.rstrip(".").split()[-1]
        fits = term != "instruction_given_response" or colour in pair.response or is_proposed(pair)
        return Score(-10 * (2 + (not fits)), 10, "ok")

    world = make_world(tmp_path, FakeStudent(score), scale={"overlap": overlap})
    world.student.fails_after = 3  # of all that is decided
    with pytest.raises(KeyboardInterrupt):
        world.through(1)
    assert world.rows("SELECT * FROM decisions") + world.rows("SELECT * FROM scores") == []
    asked = len(world.student.asked)
    assert asked == 34 * 8  # each with another's response too
    world.student.fails_after = None
    world.through(1)
    (tmp_path / "without").mkdir()
    without = make_world(tmp_path / "without", FakeStudent(score), evaluate={"base_samples": 0})
    without.through(1)
    assert describe_signal(without.store) is None
    assert world.rows("SELECT * FROM decisions") == without.rows("SELECT * FROM decisions")
    assert len(world.student.asked) - asked == len(without.student.asked)  # it was measured once
    found = describe_signal(world.store)
    assert found is not None
    assert found["pairs"] == 34
    blind, telling = found["matched"]["ifd"], found["matched"]["r_ifd"]
    assert blind["value"] == 0.5  # IFD is 1 everywhere
    assert telling["value"] is not None and telling["value"] > 0.9  # noqa: PT018
    # All proposals of the phase are longer; by equal values none is taken.
    assert found["longer"]["response"]["value"] == 0.0
    (warning,) = found["warnings"]
    assert warning.startswith("by IFD (50%, 34% to 66%) the student is not surely better than guessing at")
    assert capsys.readouterr().err.count(warning) == 1
    world.store.db.close()
    without.store.db.close()


@pytest.mark.slow
def test_select_gives_the_same_rows_after_an_interruption(tmp_path: Path) -> None:
    found = []
    for name in ("undisturbed", "disturbed"):
        (tmp_path / name).mkdir()
        world = make_world(tmp_path / name)
        reflect(state(), world.runtime())
        select(state(), world.runtime())
        reflect(state(phase="response"), world.runtime())
        if name == "disturbed":  # between the scores of the first group's contests and of its winners
            world.student.fails_after = 1
            with pytest.raises(KeyboardInterrupt):
                select(state(phase="response"), world.runtime())
            assert world.store.count_decisions(1, "response") == 0
            world.student.fails_after = None
        select(state(phase="response"), world.runtime())
        columns = "round, phase, sample_id, winner_id, reason, incumbent_value, winner_value"
        decisions = world.rows(f"SELECT {columns} FROM decisions ORDER BY phase, sample_id")
        scores = world.rows("SELECT version_id, term, sum_logprob FROM scores ORDER BY version_id, term")
        found.append((decisions, scores))
        world.store.db.close()
    assert found[0] == found[1]
    assert len(found[0][0]) == 2 * 34


def test_select_reads_the_next_group_while_one_is_scored(tmp_path: Path) -> None:
    second = threading.Event()

    class Slow(FakeStudent):
        called = 0

        def score(self, questions: Sequence[tuple[Pair, Term]]) -> list[Score]:
            self.called += 1
            if self.called == 2:
                second.set()
            assert second.wait(10.0), "the second group was not read while the first was scored"
            return super().score(questions)

    world = make_world(tmp_path, Slow(), evaluate={"base_samples": 0})
    reflect(state(), world.runtime())
    select(state(), world.runtime())
    assert world.store.count_decisions(1, "instruction") == 34
    world.store.db.close()


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "status"), [("ifd+r-ifd", "non-finite"), ("accept-all", "empty")])
def test_select_never_takes_a_proposal_that_cannot_be_scored(
    tmp_path: Path, policy: str, status: str
) -> None:
    def scorer(pair: Pair, term: Term) -> Score:
        if is_proposed(pair):
            return Score(None, None, status)  # type: ignore[arg-type]
        return prefers_proposals(pair, term)

    world = make_world(tmp_path, FakeStudent(scorer), selection={"policy": policy})
    world.through(1)
    refinetune(state(), world.runtime())
    reasons = {row["reason"] for row in world.rows("SELECT reason FROM decisions")}
    assert reasons == {"unscorable", "no-candidate"}
    assert world.trained == []


def test_reflect_counts_what_its_calls_came_to_also_after_an_interruption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(tmp_path, phases=("response",))
    world.through(1, "instruction")
    pairs = [pending.pair for pending in pending_responses(world.store)]
    answers = dict.fromkeys(pairs[:9], "Better.") | {pair: pair.response for pair in pairs[9:20]}
    entries = [
        {"phase": "response", "instruction": pair.instruction, "input": pair.input, "new_response": answer}
        for pair, answer in answers.items()  # 9 proposals, 11 unchanged answers; 14 of 34 have no entry
    ]
    (tmp_path / "teacher.jsonl").write_text("\n".join(map(json.dumps, entries)))

    asked = itertools.count()
    stopped = replace(world.context, stopping=lambda: next(asked) > 20)
    with pytest.raises(Interrupted):
        reflect(state(phase="response"), Runtime(context=stopped))
    assert 0 < len(pending_responses(world.store)) < 34
    reflect(state(phase="response"), world.runtime())
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("round 1 · reflect · response: 34/34, ")
    assert last.endswith(", proposed 9, unchanged 11, failed 14")
    select(state(phase="response"), world.runtime())
    assert world.store.count_decisions(1, "response", "no-candidate") == 11 + 14


def pending_responses(store: LineageWriter) -> list[Reflection]:
    return list(store.pending_reflections(1, "response", candidates=1, attempts=1))


@pytest.mark.slow
def test_second_round_is_scored_by_the_student_the_first_one_trained(world: World) -> None:
    world.through(1)
    assert refinetune(state(), world.runtime()) == {"student": "s1"}
    world.through(2, "instruction")
    assert world.student.opened == [None, None, world.context.folder.adapter(1)]
    scorers = world.rows("SELECT DISTINCT student_id FROM decisions WHERE round = 2")
    assert {row["student_id"] for row in scorers} <= {"s1", None}


@pytest.mark.slow
def test_refinetune_trains_on_the_filtered_pool_once(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.through(1)
    refinetune(state(), world.runtime())
    (training,) = world.trained
    cut = f"student.max_length cut the response or context of 1 of {len(training['pairs'])} pairs"
    assert f"round 1 · refinetune: {cut}" in capsys.readouterr().err
    assert training["previous"] is None
    assert training["round"] == 1
    assert training["pairs"]
    assert all(pair.response.startswith("Here are") for pair in training["pairs"])
    assert refinetune(state(), world.runtime()) == {"student": "s1"}
    assert len(world.trained) == 1
    student = world.store.round_student(1)
    assert student is not None
    assert (student.adapter, student.parent_id) == ("adapters/round-01", "s0")


@pytest.mark.slow
def test_refinetune_goes_on_from_the_previous_adapter_when_asked(tmp_path: Path) -> None:
    world = make_world(tmp_path, refinetune={"start_from": "previous"})
    for round in (1, 2):
        world.whole(round)
    assert [training["previous"] for training in world.trained] == [None, world.context.folder.adapter(1)]
    student = world.store.round_student(2)
    assert student is not None
    assert student.parent_id == "s1"


@pytest.mark.slow
def test_a_round_that_trains_nothing_keeps_its_student_and_its_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = {"base_samples": 0, "max_tokens": 8}
    world = make_world(tmp_path, selection={"train_max_ifd": 1e-6}, evaluate=nobody)
    evaluate_round(world.context, 0)
    world.through(1)
    assert refinetune(state(), world.runtime()) == {"student": "s0"}
    assert world.trained == []
    said = capsys.readouterr().err
    assert "no pair passes the filter, s0 stays: of " in said
    assert "improved pairs 0 have IFD below selection.train_max_ifd = 1e-06, and " in said
    opened = len(world.student.opened)
    assert evaluate(state(), world.runtime()) == {"round": 2}
    assert world.store.held_out_measures()[1] == world.store.held_out_measures()[0]
    assert len(world.student.opened) == opened  # neither to measure again nor to compare rounds


def test_evaluate_measures_each_student_once(world: World) -> None:
    evaluate_round(world.context, 0)
    measures = world.store.held_out_measures()[0]
    assert measures["nll"].value == pytest.approx(2.0)
    assert measures["response_tokens"].value == 8
    assert measures["nll"].n == 6
    evaluate_round(world.context, 0)
    assert world.student.opened == [None]


@pytest.mark.parametrize(("answers", "answered"), [(0, 0), (4, 4), (500, 6)])
def test_evaluate_answers_the_same_few_pairs_of_those_it_scores(
    tmp_path: Path, answers: int, answered: int
) -> None:
    world = make_world(tmp_path, evaluate={"answers": answers})
    evaluate_round(world.context, 0)
    assert len(set(world.student.asked)) == len(world.student.asked) == 6
    assert len(set(world.student.answered)) == len(world.student.answered) == answered
    measures = world.store.held_out_measures()[0]
    assert measures["nll"].n == 6
    assert ("response_tokens" in measures) == (answers > 0)
    chosen = world.store.choose_samples(answers, world.context.config.seed, "holdout")
    assert world.student.answered == [*world.store.given_pairs(chosen).values()]


@pytest.mark.parametrize("seen", range(6))
def test_evaluate_goes_on_after_a_kill_with_the_group_it_was_at(tmp_path: Path, seen: int) -> None:
    judged = itertools.count()

    def verdict(*texts: str) -> float:
        if next(judged) == seen:
            raise KeyboardInterrupt
        return float(texts[3].endswith("0."))

    calm = make_world(tmp_path / "calm")
    evaluate_round(replace(calm.context, checker=lambda *texts: float(texts[3].endswith("0."))), 0)
    world = make_world(tmp_path / "killed")
    killed = replace(world.context, checker=verdict)
    with pytest.raises(KeyboardInterrupt):
        evaluate_round(killed, 0)
    assert world.store.held_out_measures() == {}
    committed = world.rows("SELECT * FROM held_out_answers")
    assert len(committed) == seen // 2 * 2  # groups of two
    world.student.asked.clear()
    world.student.answered.clear()
    evaluate_round(killed, 0)
    assert world.student.asked == []
    assert world.student.answered == calm.student.answered[len(committed) :]
    for table in ("scores", "held_out_answers", "evaluations"):
        assert world.rows(f"SELECT * FROM {table}") == calm.rows(f"SELECT * FROM {table}")
    assert world.store.held_out_measures()[0]["accuracy"].n == 6


def test_evaluate_closes_the_student_before_it_opens_a_faster_writer(tmp_path: Path) -> None:
    world, faster, wanted = make_world(tmp_path), FakeStudent(), []

    def open_writer() -> Any:
        assert (len(world.student.opened), world.student.closed) == (1, 1)
        return faster

    def open_writers(adapter: Path | None, answers: int) -> LocalPool:
        wanted.append((adapter, answers))
        return LocalPool(open_writer, at_once=1)

    evaluate_round(replace(world.context, open_writers=open_writers), 0)
    assert wanted == [(None, 6)]
    assert (len(faster.answered), faster.closed, world.student.answered) == (6, 1, [])
    assert world.store.held_out_measures()[0]["response_tokens"].n == 6


def test_evaluate_scores_held_out_pairs_in_groups_that_are_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reflectune.loop.nodes.evaluate._SCORED_AT_ONCE", 4)
    world = make_world(tmp_path, FakeStudent(fails_after=1))
    with pytest.raises(KeyboardInterrupt):
        evaluate_round(world.context, 0)
    first = [pair for pair, _ in world.student.asked]
    assert len(world.rows("SELECT * FROM scores")) == len(first) == 4
    world.student.fails_after = None
    evaluate_round(world.context, 0)
    assert [pair for pair, _ in world.student.asked] == [
        pair for group in world.store.held_out_pairs(100) for pair in group.values()
    ]


@pytest.mark.slow
def test_the_base_scores_the_same_samples_of_every_round_that_is_measured(tmp_path: Path) -> None:
    world = make_world(
        tmp_path, selection={"policy": "accept-all"}, evaluate={"base_samples": 5, "max_tokens": 8}
    )
    chosen = world.store.choose_samples(5, seed=0)
    for round in (1, 2):
        world.whole(round)
    counted = "SELECT version_id, COUNT(*) AS n FROM scores WHERE student_id = 's0' GROUP BY version_id"
    terms = {row["version_id"]: row["n"] for row in world.rows(counted)}
    pools = [world.store.pool_pairs(round, chosen) for round in (0, 1, 2)]
    assert len(set().union(*pools)) == 15  # each sample has another pair in each round
    assert {terms.get(version) for pool in pools for version in pool} == {4}
    made = {row["id"] for row in world.rows("SELECT id FROM versions WHERE round = 2")}
    assert made & terms.keys() == set(pools[2])
    asked = len(world.student.asked)
    score_base_samples(world.context, 2)
    assert len(world.student.asked) == asked


@pytest.mark.slow
def test_evaluate_skips_rounds_but_never_the_last(tmp_path: Path) -> None:
    world = make_world(tmp_path, evaluate={"every": 3, "max_tokens": 8})
    for round in (1, 2):
        world.whole(round)
    assert list(world.store.held_out_measures()) == [2]


@pytest.mark.slow
def test_samples_refused_for_long_enough_are_asked_and_decided_no_more(tmp_path: Path) -> None:
    world = make_world(tmp_path, teacher={"freeze_after": 1}, selection={"policy": "reject-all"})
    world.through(1)
    world.store.set_round_student(1, "s0")
    refused = {row["sample_id"] for row in world.rows("SELECT * FROM decisions WHERE reason = 'policy'")}
    assert 0 < len(refused) < 34  # the others had no proposal
    world.through(2)
    asked = world.rows("SELECT DISTINCT sample_id FROM teacher_calls WHERE round = 2")
    assert len({row["sample_id"] for row in asked} | refused) == 34
    for phase in PHASES:
        frozen = world.rows(
            "SELECT * FROM decisions WHERE round = 2 AND phase = ? AND reason = 'frozen'", phase
        )
        assert {row["sample_id"] for row in frozen} == refused
        assert all(row["incumbent_id"] == row["winner_id"] for row in frozen)
    assert world.store.count_decisions(2) == 2 * 34
