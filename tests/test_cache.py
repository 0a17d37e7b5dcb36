"""Answers that were paid for once: the file, the engine around it, and whole runs that share it."""

import multiprocessing
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from reflectune.agents.model_files import fingerprint
from reflectune.agents.teacher.engines import Request, TeacherModel
from reflectune.agents.teacher.engines.addresses import list_addresses
from reflectune.agents.teacher.engines.cached import CachedEngine
from reflectune.agents.teacher.teacher import Reflected, check_teacher
from reflectune.state import cache as cache_module
from reflectune.state.cache import AnswerCache, cache_path
from reflectune.state.config import StudentConfig, TeacherConfig
from reflectune.state.errors import ConfigError, StoreError
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import Answer, Reflection
from tests.cache_writer import write_many
from tests.teacher_server import TeacherServer, serve_teacher
from tests.teachers import ScriptedEngine, asked, config, statuses, well
from tests.teachers import ask as ask_teacher
from tests.test_cli import complaint, document, invoke
from tests.worlds import write_world

REFUSAL = "json_schema is not supported"
ANSWER = Answer("0", "text", "stop", prompt_tokens=10, completion_tokens=5, cached=True)
TRAIN = 14  # pairs of a world of 20 that are not held out


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[AnswerCache]:
    with AnswerCache.open(tmp_path) as cache:
        yield cache


def kept(runs: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(cache_path(runs)) as connection:
        return connection.execute("SELECT key, text, created_at FROM answers ORDER BY key").fetchall()


# The file


def test_cache_keeps_the_first_answer_under_a_key(tmp_path: Path) -> None:
    with AnswerCache.open(tmp_path) as cache:
        assert cache.get("k", "0") is None
        cache.put("k", "m", ANSWER)
        cache.put("k", "m", replace(ANSWER, text="another"))
        cache.put("none", "m", Answer("0"))
    with AnswerCache.open(tmp_path) as cache:
        assert cache.get("k", "0") == ANSWER
        assert cache.get("none", "7") == Answer("7", cached=True)


def test_cache_knows_what_was_last_found_of_models_and_servers(answers: AnswerCache) -> None:
    assert answers.fingerprint("/m") is None
    for found in ("one", "two"):
        answers.set_fingerprint("/m", found)
    assert answers.fingerprint("/m") == "two"
    for address, granted in (("http://a", False), ("http://b", True)):
        answers.set_grants_schemas(address, "m", granted)
    known = [answers.grants_schemas(f"http://{at}", model) for at, model in ("am", "bm", "an", "cm")]
    assert known == [False, True, None, None]
    answers.set_grants_schemas("http://a", "m", True)
    assert answers.grants_schemas("http://a", "m") is True


def test_cache_whose_making_was_cut_short_is_made_whole(tmp_path: Path) -> None:
    with sqlite3.connect(cache_path(tmp_path)) as connection:  # what SQLite has after the first statement
        connection.execute(
            "CREATE TABLE _sqlite_migrations (id TEXT, migration_set TEXT, name TEXT, applied_at TEXT)"
        )
    with AnswerCache.open(tmp_path) as cache:
        cache.put("k", "m", ANSWER)
        assert cache.get("k", "0") == ANSWER


def write_text(path: Path) -> None:
    path.write_text("this is no database at all, but long enough to be read as one")


def break_pages(path: Path) -> None:
    with AnswerCache.open(path.parent) as cache:
        for number in range(200):
            cache.put(f"k{number}", "m", replace(ANSWER, text="text " * 100))
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))


def write_other_database(path: Path) -> None:
    sqlite3.connect(path).execute("CREATE TABLE other (x)").connection.close()


def write_newer(path: Path) -> None:
    with AnswerCache.open(path.parent) as cache:
        cache.db.table("_sqlite_migrations").insert(
            {"migration_set": "reflectune-cache", "name": "9999_future", "applied_at": "later"}
        )


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (write_text, "file is not a database; delete it: it holds copies only, then try again"),
        (break_pages, "delete it: it holds copies only"),
        (write_other_database, "no cache of answers, but some other database; move it or delete it"),
        (write_newer, r"made by a newer version of Reflectune \(schema 9999_future\)"),
        (Path.mkdir, "a folder, where the cache of answers belongs"),
    ],
)
def test_cache_that_cannot_be_one_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[Path], None], complaint: str
) -> None:
    path = cache_path(tmp_path)
    spoil(path)
    with pytest.raises(StoreError, match=complaint) as refused:
        AnswerCache.open(tmp_path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_cache_locked_or_full_says_so(
    tmp_path: Path, answers: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_LOCKED_SECONDS", 0.05)
    with AnswerCache.open(tmp_path) as impatient:
        answers.db.execute("BEGIN IMMEDIATE")
        assert impatient.get("k", "0") is None  # who reads does not wait
        with pytest.raises(StoreError, match=r"cache.db: database is locked; another program"):
            impatient.put("k", "m", ANSWER)
        answers.db.rollback()
        impatient.put("k", "m", ANSWER)
        impatient.db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(StoreError, match="disk is full; make room"):
            impatient.put("large", "m", replace(ANSWER, text="x" * 100_000))
        assert impatient.get("k", "0") == ANSWER


@pytest.mark.slow
def test_cache_is_made_and_used_by_many_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    processes = [context.Process(target=write_many, args=(str(tmp_path), own, barrier)) for own in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert len(kept(tmp_path)) == 100 + 4 * 100


# What tells a model from another


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model-1.safetensors").write_bytes(b"weights")
    return path


def test_fingerprint_goes_by_names_and_content(folder: Path) -> None:
    before = fingerprint(folder)
    (folder / "model-1.safetensors").write_bytes(b"weightz")
    changed = fingerprint(folder)
    (folder / "model-1.safetensors").write_bytes(b"weights")
    assert fingerprint(folder) == before
    (folder / "config.json").rename(folder / "tokenizer.json")
    assert len({before, changed, fingerprint(folder)}) == 3


def test_fingerprint_goes_by_no_times_and_no_files_that_no_answer_depends_on(folder: Path) -> None:
    before = fingerprint(folder)
    os.utime(folder / "config.json", (1, 1))
    (folder / ".cache").mkdir()
    (folder / ".cache/download").write_text("today")
    (folder / "README.md").write_text("a fine model")
    (folder / "notes.txt").write_text("mine")
    (folder / "runs").mkdir()
    (folder / "runs/config.json").write_text("{}")
    assert fingerprint(folder) == before
    moved = folder.rename(folder.with_name("elsewhere"))
    assert fingerprint(moved) == before


# More than is read whole: 128 blocks begin every (size - block) / 127 bytes.
LARGE, BLOCK = 40 * 2**20, 2**15


@pytest.mark.parametrize(
    ("at", "is_read"),
    [
        *(((LARGE - BLOCK) * number // 127, True) for number in (0, 1, 64, 127)),
        (BLOCK + 100, False),  # between the first block and the second
        (LARGE, True),  # appended
    ],
)
def test_fingerprint_reads_a_large_file_here_and_there(folder: Path, at: int, is_read: bool) -> None:
    path = folder / "model.safetensors"
    path.touch()
    os.truncate(path, LARGE)
    before = fingerprint(folder)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"x")
    assert (fingerprint(folder) != before) is is_read


# The engine


class Opened:
    """An `open_engine` that notes the engines it gave out, and a cache around it."""

    def __init__(self, cache: AnswerCache) -> None:
        self.cache = cache
        self.answer: Callable[[Request], Answer] = well
        self.engines: list[ScriptedEngine] = []
        self.replicas = 1

    def __call__(self, config: TeacherConfig, model: TeacherModel, *rest: object) -> ScriptedEngine:
        server = list_addresses(config)[0].name if config.is_served else None
        self.engines.append(
            ScriptedEngine(self.answer, server=server, capacity=self.replicas * config.capacity)
        )
        return self.engines[-1]

    @property
    def asked(self) -> int:
        return sum(len(engine.requests) for engine in self.engines)

    def through_cache(self, settings: TeacherConfig, model: TeacherModel | None = None) -> CachedEngine:
        return CachedEngine(settings, model or named(), self.cache, open_engine=self)

    def ask_teacher(self, settings: TeacherConfig, what: int | list[Reflection]) -> list[Reflected]:
        return ask_teacher(settings, what, self.cache, self)


@pytest.fixture
def opened(answers: AnswerCache) -> Opened:
    return Opened(answers)


def make_request(**changes: Any) -> Request:
    fields: dict[str, Any] = {
        "id": "0", "reflection": asked(), "messages": ({"role": "user", "content": "Do."},),
        "schema": {"a": 1}, "seed": 1,
    }  # fmt: skip
    return Request(**fields | changes)


def named(name: str = "fake", **source: Any) -> TeacherModel:
    return TeacherModel(name, StudentConfig(model=name, **source))


def ask(
    opened: Opened, settings: TeacherConfig, request: Request, model: TeacherModel | None = None
) -> Answer:
    """One answer, as a reader gets it that then closes the engine."""
    engine = opened.through_cache(settings, model)
    engine.submit(request)
    answer = engine.next_answer()
    engine.close()
    return answer


def test_cached_engine_asks_once_and_says_which_answers_it_knew(opened: Opened) -> None:
    opened.answer = lambda request: well(request, prompt_tokens=7, completion_tokens=3, seconds=9.0)
    first = ask(opened, config(), make_request())
    again = ask(opened, config(), make_request(id="1", reflection=asked(round=2, candidate=1)))
    assert not first.cached
    assert again == replace(first, request_id="1", seconds=0.0, cached=True, server=None)
    assert (opened.asked, len(opened.engines)) == (1, 1)
    assert opened.engines[0].closed


@pytest.mark.parametrize(
    ("settings", "changes", "model", "is_known"),
    [
        ({}, {"messages": ({"role": "user", "content": "Do!"},)}, "fake", False),
        ({}, {"messages": ({"role": "system", "content": "Do."},)}, "fake", False),
        ({}, {"schema": None}, "fake", False),
        ({}, {"schema": {"a": 2}}, "fake", False),
        ({"model": "other"}, {}, "other", False),
        ({"revision": "2"}, {}, "fake", False),
        ({"temperature": 0.5}, {}, "fake", False),
        ({"top_p": 0.5}, {}, "fake", False),
        ({"max_tokens": 5}, {}, "fake", False),
        ({}, {"seed": 2}, "fake", True),  # nothing is drawn
        ({"base_url": "http://elsewhere"}, {}, "fake", True),
        ({"api_key_env": "KEY"}, {}, "fake", True),
        ({"concurrency": 3, "timeout": 5.0, "retries": 7}, {}, "fake", True),
        ({"price_in": 1.0, "price_out": 1.0, "budget_usd": 5.0}, {}, "fake", True),
    ],
)
def test_cached_engine_asks_where_the_answer_may_be_another(
    opened: Opened,
    settings: dict[str, Any],
    changes: dict[str, Any],
    model: str,
    is_known: bool,
) -> None:
    greedy = {"temperature": 0.0}
    ask(opened, config(**greedy), make_request(seed=1))
    asked_anew = ask(opened, config(**greedy | settings), make_request(**{"seed": 1} | changes), named(model))
    assert asked_anew.cached is is_known
    assert ask(opened, config(**greedy), make_request(seed=1)).cached


def test_cached_engine_goes_by_the_seed_where_something_is_drawn(opened: Opened) -> None:
    warm = config(temperature=1.0)
    cached = [ask(opened, warm, make_request(seed=seed)).cached for seed in (1, 2, 1)]
    assert cached == [False, False, True]


def local(engine: str = "transformers", **changes: Any) -> TeacherConfig:
    return TeacherConfig(engine=engine, model="unused", **changes)  # type: ignore[arg-type]


def test_cached_engine_goes_by_what_a_model_folder_holds(opened: Opened, folder: Path) -> None:
    def model() -> TeacherModel:
        return named(str(folder))

    ask(opened, local(), make_request(), model())
    assert ask(opened, local("vllm"), make_request(), model()).cached
    assert not ask(opened, local("vllm", quantization="fp8"), make_request(), model()).cached
    assert not ask(opened, local("vllm", max_model_len=64), make_request(), model()).cached
    others: tuple[dict[str, Any], ...] = (
        {"dtype": "bfloat16"},
        {"thinking": True},
        {"date": date(2025, 1, 1)},
    )
    for other in others:
        assert not ask(opened, local(), make_request(), named(str(folder), **other)).cached
    adapted = replace(model(), adapter=folder.with_name("adapter"), adapter_hash="one")
    assert not ask(opened, local(), make_request(), adapted).cached
    assert ask(opened, local(), make_request(), replace(adapted, name="self:s7")).cached
    assert not ask(opened, local(), make_request(), replace(adapted, adapter_hash="two")).cached
    (folder / "model-1.safetensors").write_bytes(b"weightz")
    assert not ask(opened, local(), make_request(), model()).cached
    assert ask(opened, local(), make_request(), model()).cached


def test_cached_engine_asked_alone_needs_no_model_folder(opened: Opened, folder: Path) -> None:
    model = named(str(folder))
    ask(opened, local(), make_request(schema=None), model)
    shutil.rmtree(folder)
    assert ask(opened, local(cache="only"), make_request(schema=None), model).cached
    missing = ask(opened, local(cache="only"), make_request(schema=None, seed=2, messages=()), model)
    assert (missing.error, missing.message) == ("no-entry", 'not in the cache, and teacher.cache = "only"')
    assert opened.asked == 1


def test_cached_engine_keeps_answers_once_the_next_question_comes(tmp_path: Path, opened: Opened) -> None:
    def submit(number: int) -> None:
        engine.submit(make_request(id=str(number), messages=({"role": "user", "content": str(number)},)))

    engine = opened.through_cache(config())
    for number in range(4):
        submit(number)
    for _ in range(2):
        engine.next_answer()
        assert kept(tmp_path) == []  # they may not be committed yet
    submit(4)
    assert len(kept(tmp_path)) == 2
    engine.next_answer()
    for _ in range(2):
        engine.close()
        assert len(kept(tmp_path)) == 3


@pytest.mark.parametrize("error", ["refused-request", "no-entry", "unavailable", "failed"])
def test_cached_engine_keeps_no_failure(tmp_path: Path, opened: Opened, error: Any) -> None:
    opened.answer = lambda request: Answer(request.id, error=error)
    for _ in range(2):
        assert ask(opened, config(), make_request(schema=None)).error == error
    assert opened.asked == 2
    assert kept(tmp_path) == []


def test_cached_engine_hands_over_what_it_knows_while_the_rest_is_asked(opened: Opened) -> None:
    ask(opened, config(), make_request())
    engine = opened.through_cache(config())
    engine.submit(make_request(id="new", messages=()))
    engine.submit(make_request(id="known"))
    assert [engine.next_answer().request_id for _ in range(2)] == ["known", "new"]
    engine.close()


def test_cached_engine_asks_once_for_requests_alike_that_are_under_way(opened: Opened) -> None:
    opened.answer = lambda request: well(request, prompt_tokens=7, completion_tokens=3, seconds=9.0)
    engine = opened.through_cache(config())
    for id in "abc":
        engine.submit(make_request(id=id))
    first, *rest = (engine.next_answer() for _ in range(3))
    assert (first.request_id, first.cached, first.prompt_tokens) == ("a", False, 7)
    assert rest == [replace(first, request_id=id, seconds=0.0, cached=True, server=None) for id in "bc"]
    assert opened.asked == 1
    engine.close()


@pytest.mark.parametrize("error", ["refused-request", "unavailable", "failed"])
def test_cached_engine_tells_a_failure_to_all_requests_alike(opened: Opened, error: Any) -> None:
    """Whoever submitted them knows whether to ask again."""
    opened.answer = lambda request: Answer(request.id, error=error)
    engine = CachedEngine(config(), named(), opened.cache, open_engine=opened)
    for id in "abc":
        engine.submit(make_request(id=id))
    answers = [engine.next_answer() for _ in "abc"]
    assert [(answer.request_id, answer.error) for answer in answers] == [(id, error) for id in "abc"]
    assert opened.asked == 1
    engine.close()


def test_cached_engine_takes_as_much_as_the_engine_it_opens(opened: Opened) -> None:
    opened.replicas = 4
    engine = CachedEngine(config(concurrency=3), named(), opened.cache, open_engine=opened)
    assert engine.capacity == 3
    engine.submit(make_request())
    assert engine.capacity == 12
    engine.next_answer()
    engine.close()


def test_cached_engine_gives_the_same_text_again_to_the_last_character(opened: Opened) -> None:
    opened.answer = lambda request: well(request, text="a\0b\ud800c\r\n é")
    first = ask(opened, config(), make_request())
    assert first.text == "a\ufffdb\ufffdc\r\n é"
    assert ask(opened, config(), make_request()).text == first.text


def test_cached_engine_closes_the_engine_where_the_answer_cannot_be_kept(opened: Opened) -> None:
    engine = opened.through_cache(config())
    engine.submit(make_request())
    engine.next_answer()
    opened.cache.db.execute("DROP TABLE answers")
    with pytest.raises(StoreError, match="no such table: answers; delete it: it holds copies only"):
        engine.close()
    assert opened.engines[0].closed


# The teacher


def test_teacher_counts_a_cached_call_without_cost_or_time(opened: Opened) -> None:
    opened.answer = lambda request: well(request, prompt_tokens=10, completion_tokens=5, seconds=2.0)
    settings = config(price_in=1.0, price_out=2.0)
    first, again = opened.ask_teacher(settings, 3), opened.ask_teacher(settings, 3)
    assert [call.cost_usd for call, _ in first] == [20e-6] * 3  # 10 * 1 + 5 * 2 millionths
    assert [call for call, _ in again] == [
        replace(call, cached=True, cost_usd=0.0, seconds=0.0, server=None) for call, _ in first
    ]
    assert [version for _, version in again] == [version for _, version in first]
    assert opened.ask_teacher(config(), 3)[0][0].cost_usd == 0.0  # whatever the price


@pytest.mark.parametrize("text", ["nonsense", ""])
def test_teacher_pays_once_for_answers_that_are_no_use(opened: Opened, text: str) -> None:
    opened.answer = lambda request: well(request, text=text, completion_tokens=0)
    settings = config(retries=2)
    first, again = opened.ask_teacher(settings, 3), opened.ask_teacher(settings, 3)
    assert opened.asked == 9
    assert statuses(again) == ["unparsable"] * 9
    assert Counter(call.attempt for call, _ in again) == {1: 3, 2: 3, 3: 3}
    assert {call.text for call, _ in first} == {call.text for call, _ in again} == {text}


def no_schemas(request: Request) -> Answer:
    return (
        Answer(request.id, error="refused-request", message=REFUSAL)
        if request.schema is not None
        else well(request)
    )


@pytest.mark.parametrize("mode", ["on", "only"])
@pytest.mark.parametrize("concurrency", [1, 16])
def test_teacher_without_schemas_is_not_asked_again(opened: Opened, mode: str, concurrency: int) -> None:
    """With several candidates, second attempts, silent answers, and another concurrency."""

    def answer(request: Request) -> Answer:
        texts = ({}, {"text": "hm"}, {"text": ""})[request.seed % 3]
        return no_schemas(request) if request.schema is not None else well(request, **texts)

    opened.answer = answer
    reflections = [asked(number, candidate=candidate) for number in range(6) for candidate in range(3)]
    warm = {"temperature": 1.0, "retries": 1}
    first = opened.ask_teacher(config(concurrency=4, **warm), reflections)
    assert opened.asked == 4 + len(first) > 4 + len(reflections)
    again = opened.ask_teacher(config(concurrency=concurrency, cache=mode, **warm), reflections)
    assert opened.asked == 4 + len(first)
    assert {call.id: call.text for call, _ in again} == {call.id: call.text for call, _ in first}
    assert all(call.cached for call, _ in again)


def test_teacher_that_refused_schemas_is_asked_for_none_by_the_next_teacher(opened: Opened) -> None:
    opened.answer = no_schemas
    opened.ask_teacher(config(concurrency=2), 6)
    opened.ask_teacher(config(concurrency=2), 10)  # as a later phase does
    assert sum(sum(engine.schemas()) for engine in opened.engines) == 2
    opened.ask_teacher(config("http://elsewhere", concurrency=2), 12)
    assert opened.engines[-1].schemas()[:2] == [True, True]


def test_teacher_that_granted_a_schema_once_keeps_being_asked_for_them(opened: Opened) -> None:
    opened.ask_teacher(config(), 1)
    opened.answer = lambda request: (
        no_schemas(request) if request.reflection.pair.response == "1" else well(request)
    )
    reflections = opened.ask_teacher(config(concurrency=1), 5)
    assert statuses(reflections) == ["ok"] * 5
    forms = opened.engines[-1].schemas()
    assert forms == [True, False, True, True, True]


def test_teacher_learns_nothing_of_its_server_from_the_cache(opened: Opened) -> None:
    opened.ask_teacher(config("http://elsewhere"), 2)
    opened.answer = no_schemas
    reflections = opened.ask_teacher(config(concurrency=2), 8)
    assert [call.cached for call, _ in reflections] == [True] * 2 + [False] * 6
    assert opened.cache.grants_schemas("http://unused", "script") is None


def test_teacher_on_this_machine_is_asked_for_schemas_in_every_phase(opened: Opened) -> None:
    opened.answer = no_schemas
    settings = TeacherConfig(engine="vllm", model="m", concurrency=1)
    opened.ask_teacher(settings, 2)
    opened.ask_teacher(settings, 4)
    assert [engine.requests[0].schema is not None for engine in opened.engines] == [True, True]


def test_teacher_without_a_cache_or_with_it_off_asks(tmp_path: Path, opened: Opened) -> None:
    opened.ask_teacher(config(), 3)
    before = kept(tmp_path)
    assert not any(call.cached for call, _ in opened.ask_teacher(config(cache="off"), 4))
    assert opened.asked == 3 + 4
    assert kept(tmp_path) == before


def test_check_teacher_of_a_cache_alone_wants_neither_key_nor_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    for settings in (
        {"engine": "openai", "model": "m", "api_key_env": "NO_SUCH_KEY"},
        {"engine": "transformers", "model": str(tmp_path / "gone")},
    ):
        with pytest.raises(ConfigError):
            check_teacher(TeacherConfig(**settings))  # type: ignore[arg-type]
        check_teacher(TeacherConfig(**settings, cache="only"))  # type: ignore[arg-type]


# Whole runs


@pytest.fixture(scope="module")
def server() -> Iterator[TeacherServer]:
    with serve_teacher() as server:
        yield server


@pytest.fixture(scope="module")
def made(server: TeacherServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with a run called tiny of two rounds, whose teacher is a server."""
    folder = tmp_path_factory.mktemp("world")
    teacher = {
        "engine": "openai", "model": "m", "path": None, "base_url": server.url,
        "price_in": 1.0, "price_out": 2.0,
    }  # fmt: skip
    config_file = write_world(folder, samples=20, teacher=teacher)
    assert invoke("run", config_file, "--runs", folder / "runs") == 0
    assert len(server.requests) == 2 * 2 * TRAIN
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that world, to work in."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


_ROWS = {
    "teacher_calls": "id, engine, model, prompt_hash, text, finish_reason, status, error, critique, "
    "prompt_tokens, completion_tokens",
    "versions": "*",
    "scores": "*",
    "decisions": "*",
    "training_sets": "*",
    "evaluations": "*",
    "students": "id, adapter",
}


def rows(run: Path) -> dict[str, list[tuple[object, ...]]]:
    """All that two runs of one config have in common."""
    with sqlite3.connect(run / "lineage.db") as connection:
        return {
            table: sorted(connection.execute(f"SELECT {columns} FROM {table}"), key=repr)
            for table, columns in _ROWS.items()
        }


def counts(capsys: pytest.CaptureFixture[str], run: str, runs: str = "runs") -> dict[str, list[Any]]:
    """Calls, hits and cost of each round but the first, which asks nothing."""
    rounds = document(capsys, "show", run, "--runs", runs)["rounds"][1:]
    return {name: [row["teacher"][name] for row in rounds] for name in ("calls", "cached", "cost_usd")}


@pytest.mark.slow
def test_second_run_pays_nothing(
    world: Path, server: TeacherServer, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = len(server.requests)
    assert counts(capsys, "tiny")["cached"] == [0, 0]
    (tiny,) = document(capsys, "runs")
    assert tiny["cost_usd"] > 0
    assert invoke("run", "config.toml", "--name", "again") == 0
    out, err = capsys.readouterr()
    assert len(server.requests) == asked
    assert rows(world / "runs/again") == rows(world / "runs/tiny")
    assert {path.name for path in (world / "runs").iterdir()} == {"tiny", "again", "cache.db", ".cache.lock"}
    free = {"calls": [2 * TRAIN] * 2, "cached": [2 * TRAIN] * 2, "cost_usd": [0.0, 0.0]}
    assert counts(capsys, "again") == free
    done = [line for line in err.splitlines() if line.startswith(f"round 1 · reflect · response: {TRAIN}/")]
    assert done[-1].endswith(f", proposed {TRAIN}, unchanged 0, failed 0, from cache {TRAIN}")
    teacher_table = out.split("The teacher's calls")[1].splitlines()
    assert ["1", "28", "28", "0", "0", "0.0000"] in [line.split()[:6] for line in teacher_table]
    costs = {run["name"]: run["cost_usd"] for run in document(capsys, "runs")}
    assert costs == {"again": 0.0, "tiny": tiny["cost_usd"]}


@pytest.mark.slow
def test_cache_alone_replays_a_run_whose_server_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEY", "sk-1")
    with serve_teacher() as server:
        teacher = {
            "engine": "openai",
            "model": "m",
            "path": None,
            "base_url": server.url,
            "api_key_env": "KEY",
        }
        write_world(tmp_path, samples=20, teacher=teacher)
        monkeypatch.chdir(tmp_path)
        only = ("--set", "teacher.cache=only")
        assert "there is no runs/cache.db" in complaint(capsys, "run", "config.toml", *only)
        assert not (tmp_path / "runs").exists()
        assert invoke("run", "config.toml") == 0
    monkeypatch.delenv("KEY")
    assert "KEY is not set" in complaint(capsys, "run", "config.toml", "--name", "again")
    before = kept(tmp_path / "runs")
    assert invoke("run", "config.toml", "--name", "again", *only) == 0
    assert kept(tmp_path / "runs") == before
    assert rows(tmp_path / "runs/again") == rows(tmp_path / "runs/tiny")

    with sqlite3.connect(tmp_path / "runs/tiny/lineage.db") as connection:
        query = "SELECT text FROM teacher_calls WHERE round = 1 AND phase = 'instruction' LIMIT 1"
        (missing,) = connection.execute(query).fetchone()
    with sqlite3.connect(cache_path(tmp_path / "runs")) as connection:
        connection.execute("DELETE FROM answers WHERE text = ?", [missing])
    assert invoke("run", "config.toml", "--name", "holes", *only, "--set", "rounds=1") == 0
    one = document(capsys, "show", "holes")["rounds"][1]
    assert one["instruction"]["statuses"] == {"no-entry": 1, "ok": TRAIN - 1}
    assert one["instruction"]["teacher"]["cached"] == TRAIN - 1
    assert one["teacher"]["cost_usd"] == 0.0
    cache_path(tmp_path / "runs").unlink()
    with sqlite3.connect(tmp_path / "runs/holes/lineage.db") as connection:
        connection.execute("UPDATE rounds SET status = 'running'")
    assert "there is no runs/cache.db" in complaint(capsys, "resume", "holes")


@pytest.mark.slow
def test_cache_off_neither_reads_nor_writes(world: Path, server: TeacherServer) -> None:
    before, asked = kept(world / "runs"), len(server.requests)
    shutil.copy(cache_path(world / "runs"), cache_path(world))
    assert invoke("run", "config.toml", "--runs", ".", "--set", "teacher.cache=off", "--set", "rounds=1") == 0
    assert kept(world) == before
    assert len(server.requests) == asked + 2 * TRAIN


@pytest.mark.slow
def test_damaged_cache_is_one_line_and_makes_no_run(
    world: Path, server: TeacherServer, capsys: pytest.CaptureFixture[str]
) -> None:
    cache_path(world / "runs").write_text("nonsense that is long enough to be a header of some kind")
    message = complaint(capsys, "run", "config.toml", "--name", "again")
    assert "runs/cache.db: file is not a database; delete it: it holds copies only" in message
    assert not (world / "runs/again").exists()
    assert message.partition(": ")[2] == complaint(capsys, "resume", "tiny").partition(": ")[2]
    cache_path(world / "runs").unlink()
    assert invoke("resume", "tiny") == 0
    assert document(capsys, "show", "tiny")["status"] == "finished"


@pytest.mark.slow
def test_cache_on_a_full_disk_ends_the_run_and_loses_nothing(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    puts = 0
    put = AnswerCache.put

    def fill_up(cache: AnswerCache, key: str, model: str, answer: Answer) -> None:
        nonlocal puts
        puts += 1
        if puts == 5:
            cache.db.execute("PRAGMA max_page_count = 1")
            answer = replace(answer, text="x" * 10**7)
        put(cache, key, model, answer)

    other = ("--name", "other", "--set", "teacher.revision=two", "--set", "teacher.concurrency=2")
    with monkeypatch.context() as patch:
        patch.setattr(AnswerCache, "put", fill_up)
        assert invoke("run", "config.toml", *other) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "runs/cache.db: database or disk is full; make room on the disk" in message
    one = document(capsys, "show", "other")["rounds"][1]
    assert one["instruction"]["teacher"]["calls"] in (
        5,
        6,
    )  # the fifth is committed, if not kept; two may come at once
    assert invoke("resume", "other") == 0
    assert rows(world / "runs/other") == rows(world / "runs/tiny")
    assert counts(capsys, "other")["cached"] == [0, 0]


@pytest.mark.slow
def test_run_interrupted_before_it_could_commit_keeps_the_answer(
    world: Path, server: TeacherServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C while the third answer is written: it is in no book, but need not be paid again."""
    commits = 0
    commit = LineageWriter.add_reflections

    def interrupted(store: LineageWriter, *rows: Any) -> None:
        nonlocal commits
        commits += 1
        if commits == 3:
            raise KeyboardInterrupt
        commit(store, *rows)

    asked = len(server.requests)
    other = ("--name", "other", "--set", "teacher.revision=two", "--set", "teacher.concurrency=1")
    with monkeypatch.context() as patch:
        patch.setattr(LineageWriter, "add_reflections", interrupted)
        assert invoke("run", "config.toml", *other) == 130
    assert invoke("resume", "other") == 0
    assert counts(capsys, "other")["cached"] == [1, 0]
    assert len(server.requests) - asked == 4 * TRAIN
    assert rows(world / "runs/other") == rows(world / "runs/tiny")
