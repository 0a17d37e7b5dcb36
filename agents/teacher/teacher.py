"""The teacher: asks an engine for reflections on pairs, and makes proposals of its answers.

Keeps the engine busy, asks again where that can help, and hands over finished calls as soon as they
are there. It stores no call: how often one was already asked comes in with the reflection.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from reflectune.agents.teacher.engines import (
    FAILED,
    Engine,
    OpenEngine,
    Request,
    TeacherModel,
    open_engine,
)
from reflectune.agents.teacher.engines.addresses import list_addresses
from reflectune.agents.teacher.engines.asker import Asker, draw_seed
from reflectune.agents.teacher.engines.cached import Cache
from reflectune.agents.teacher.engines.faults import is_about_schema
from reflectune.agents.teacher.engines.opening import check_engine, find_model, open_through_cache
from reflectune.agents.teacher.forms import answer_schema
from reflectune.agents.teacher.parsing import AnswerParser, Proposal
from reflectune.agents.teacher.prompts import Prompts, make_nonce, open_prompts
from reflectune.state.config import SELF, TeacherConfig
from reflectune.state.records import (
    Answer,
    CallStatus,
    Reflection,
    TeacherCall,
    Version,
    content_hash,
    content_part,
)
from reflectune.state.text import clean_text

__all__ = ["Reflected", "Teacher", "check_teacher", "open_teacher"]

Reflected = tuple[TeacherCall, Version | None]  # a finished call, and the version it proposed, if any


class Teacher(Asker[Reflection, Reflected]):
    """Reflects on pairs through an engine.

    The first attempt asks for JSON by schema, where config and engine allow it; further attempts ask for
    tagged text, so that even a greedy model reads something new. Prompts without words for tagged text ask
    for JSON in every attempt, with a schema wherever one is allowed. What an attempt asks follows from
    seed, reflection and attempt alone, and so is the same in a resumed run.
    """

    _kind = "teacher"

    def __init__(
        self, engine: Engine, prompts: Prompts, config: TeacherConfig, seed: int, cache: Cache | None = None
    ) -> None:
        super().__init__(engine, config)
        self._prompts, self._config = prompts, config
        self._seed, self._cache = seed, cache
        self._grants_schemas: dict[str | None, bool | None] = {}  # by server; None until it has shown it
        if cache is not None:
            names = (address.name for address in list_addresses(config))
            self._grants_schemas = {name: cache.grants_schemas(name, engine.model) for name in names}
        # In the attempt that is next or under way, by this server.
        self._schema_refused: dict[Reflection, str | None] = {}
        self._blames_schema = False  # whether a refusal said that it is the schema

    def reflect(
        self,
        reflections: Iterable[Reflection | None],
        may_ask: Callable[[], bool] = lambda: True,
        *,
        waits: Callable[[], bool] = lambda: True,
    ) -> Iterator[list[Reflected]]:
        """Ask for every reflection, again where an answer is no use, and yield all finished calls, in groups.

        Those that were asked for as often as they may be are passed over. All else is as `Asker._ask` says.
        """
        missing = (
            asked for asked in reflections if asked is None or asked.attempts < asked.spared + self._attempts
        )
        return self._ask(missing, may_ask, waits)

    @property
    def parameters(self) -> dict[str, bool]:
        """Whether a server takes what it was sent, by name of the parameter; empty where none was asked."""
        known = self._engine.parameters
        taken = {name for each in known for name in each.taken}
        refused = {name for each in known for name in each.refused}
        if known and not self._may_ask_for_schemas:
            refused.add("response_format")
        return dict.fromkeys(sorted(taken - refused), True) | dict.fromkeys(sorted(refused), False)

    def prompt(self, reflection: Reflection) -> str:
        """What the next attempt at a proposal asks, as far as is known of the engine by now."""
        return "\n".join(message["content"] for message in self._prepare(reflection).messages)

    def _prepare(self, asked: Reflection) -> Request:
        by_schema = (
            (asked.attempts == asked.spared or not self._prompts.has_tags)
            and asked not in self._schema_refused
            and self._config.structured
            and self._engine.structured
            and self._may_ask_for_schemas
        )
        # Candidates of a pair share their whole prompt, so that engines compute it once.
        place = self._place(asked)
        nonce = make_nonce(asked.pair, *place)
        messages = self._prompts.messages(asked.phase, asked.pair, structured=by_schema, nonce=nonce)
        schema = answer_schema(asked.phase) if by_schema else None
        return Request(next(self._request_ids), asked, messages, schema, draw_seed(*place, asked.candidate))

    @property
    def _may_ask_for_schemas(self) -> bool:
        """Whether no server is known to refuse them: any of several may be asked."""
        return False not in self._grants_schemas.values()

    def _place(self, asked: Reflection) -> tuple[object, ...]:
        """What tells the prompt of one attempt from any other, in whatever order the data is."""
        return self._seed, asked.round, asked.phase, content_part(asked.sample_id), asked.attempts + 1

    def _drop_schema(self, asked: Reflection, answer: Answer) -> None:
        self._schema_refused[asked] = answer.server
        self._blames_schema |= is_about_schema(answer.message or "")

    def _learn_schemas(self, request: Request, answer: Answer) -> None:
        """Note whether a server takes schemas, as an answer shows it. Once granted they stay."""
        granted = request.schema is not None
        is_refused = request.reflection in self._schema_refused
        refuser = self._schema_refused.pop(request.reflection, None)
        server = answer.server if granted else refuser
        known = self._grants_schemas.get(server)
        if answer.error is not None or answer.cached or not (granted or (is_refused and known is None)):
            return
        is_sure = granted or self._blames_schema  # the cache tells runs to come
        if is_sure and granted != known and self._cache is not None and server is not None:
            self._cache.set_grants_schemas(server, self._engine.model, granted)
        self._grants_schemas[server] = granted

    def _conclude(self, asked: Reflection, request: Request, answer: Answer) -> tuple[Reflected, bool]:
        self._learn_schemas(request, answer)
        parsed = self._parse(request, answer)
        proposal = parsed if isinstance(parsed, Proposal) else None
        call = TeacherCall(
            round=asked.round,
            phase=asked.phase,
            sample_id=asked.sample_id,
            candidate=asked.candidate,
            attempt=asked.attempts + 1,
            status="ok" if isinstance(parsed, Proposal) else parsed,
            error=_explain(parsed, answer),
            critique=None if proposal is None else proposal.critique,
            **self._describe(content_hash(request.messages), answer),
        )
        is_final = call.is_final(asked.spared + self._attempts)
        if proposal is None:
            return (call, None), is_final
        place = asked.sample_id, asked.incumbent_id, asked.round, asked.phase, asked.candidate
        return (call, Version(*place, proposal.pair, call.id)), is_final

    def _parse(self, request: Request, answer: Answer) -> Proposal | CallStatus:
        if answer.error is not None:
            return FAILED.get(answer.error, "error")
        asked, structured = request.reflection, request.schema is not None
        nonce = make_nonce(asked.pair, *self._place(asked))
        parser = AnswerParser(self._prompts, asked.phase, asked.pair, structured, nonce)
        return parser.parse(answer.text, answer.finish_reason)


def _explain(parsed: Proposal | CallStatus, answer: Answer) -> str | None:
    """Why a call brought no proposal, where more can be said than its status says."""
    is_cut = answer.finish_reason == "length"
    if parsed == "thought" and not is_cut:
        return "only thought, and no answer behind it"
    if parsed == "thought":
        return "only thought, cut at the token limit: raise teacher.max_tokens, or let the model think less"
    if parsed == "cut":
        return "at the token limit: raise teacher.max_tokens"
    return answer.message and clean_text(answer.message)


def open_teacher(
    config: TeacherConfig,
    seed: int,
    student: TeacherModel | None = None,
    cache: Cache | None = None,
    stopping: Callable[[], bool] = lambda: False,
    open_engine: OpenEngine = open_engine,
) -> Teacher:
    """Open the configured prompts and engine, and a teacher on them; close the teacher after use.

    What is asked and drawn follows from the run's `seed`; `student` teaches where `teacher.model` is "self",
    and says how other models on this machine are prompted.
    With a cache the engine is opened when the first answer is missing, if ever; None asks for every answer.
    What may wait for hours leaves where somebody is `stopping`. `open_engine` says where the engine is.
    """
    prompts = open_prompts(config.prompts)
    engine = open_through_cache(config, _teacher_model(config, student), cache, stopping, open_engine)
    is_served = config.is_cached and not config.is_local
    return Teacher(engine, prompts, config, seed, cache if is_served else None)


def check_teacher(config: TeacherConfig) -> None:
    """Raise a ConfigError for a teacher that surely cannot work, by files and environment alone.

    One that answers from the cache alone needs no more than its prompts.
    """
    open_prompts(config.prompts)
    if config.engine == "recorded":
        from reflectune.agents.teacher.engines.recorded import read_recording

        read_recording(Path(config.path or ""))
    check_engine(config)


def _teacher_model(config: TeacherConfig, student: TeacherModel | None) -> TeacherModel:
    if config.model != SELF:
        return find_model(config, None if student is None else student.source)
    assert student is not None, "nobody said which student is the teacher"
    if config.dtype == "auto":
        return student
    return replace(student, source=student.source.model_copy(update={"dtype": config.dtype}))
