"""The nouns of Reflectune as immutable records, and the content hashes that tie them together.

A record is one row or one message; none of them knows how it is stored, scored or shown.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from reflectune.state.text import is_empty

Phase = Literal["instruction", "response"]
Origin = Literal["original", "instruction", "response"]
Split = Literal["train", "holdout"]
Term = Literal[
    "response_given_instruction", "response_alone", "instruction_given_response", "instruction_alone"
]
ScoreStatus = Literal["ok", "empty", "truncated-away", "non-finite"]
CallStatus = Literal[
    "ok",
    "unparsable",  # without the texts that were asked for
    "unchanged",  # the given pair
    "echoed",  # the prompt's own words
    "placeholder",  # stand-ins for texts
    "declined",  # the model refuses to do it
    "repetition",  # one thing over and over
    "cut",  # at the token limit
    "thought",  # nothing but thoughts
    "no-entry",  # a recording knows nothing of the pair
    "refused",  # the engine does not take the request
    "error",
]
AnswerError = Literal["refused-request", "no-entry", "unavailable", "failed"]
PolicyName = Literal[
    "ifd+r-ifd", "ifd", "r-ifd", "lc-ifd", "lc-r-ifd", "pmi", "surprise", "perplexity", "longest", "random",
    "accept-all", "reject-all",
]  # fmt: skip
Reason = Literal["accepted", "refused", "tie", "unscorable", "no-candidate", "frozen", "policy"]
# What a phase came to for a sample, as the view `outcomes` derives it: a proposal was taken; none was
# (refused, tie, unscorable or policy); the teacher found nothing to improve; it brought no proposal; the
# sample was left alone; nobody was asked, since the budget was spent.
Outcome = Literal["accepted", "refused", "unchanged", "failed", "frozen", "unasked"]

# What a field of a row may hold.
Column = Literal["messages", "instruction", "input", "response", "system", "history"]
# How a row holds its pair.
DataFormat = Literal[
    "auto", "alpaca", "messages", "sharegpt", "dolly", "ultrachat", "preference", "prompt", "question",
    "generations", "segments",
]  # fmt: skip
# Of the samples, by lot: each half's pairs train one of two students, who decides about the other's.
Half = Literal[0, 1]
Turns = Literal["last", "first", "each"]
# Rows that are no pairs: nothing usable in them, of another format than the configured one, turns out of
# order, speakers of unknown names, tools, images or sound.
OddKind = Literal["invalid", "shape", "turns", "roles", "tools", "earlier_tools", "media"]
# The files of state/config/recipes.
Recipe = Literal[
    "alpaca-7b", "alpaca-13b", "wizardlm-7b", "wizardlm-13b", "qwen3-0.6b-laptop", "self", "api-teacher"
]

PHASES: tuple[Phase, ...] = get_args(Phase)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
TERMS: tuple[Term, ...] = get_args(Term)
HALVES: tuple[Half, ...] = get_args(Half)
_ODD = "13579bdf"
# Reasons of decisions that had no proposal to decide about.
UNCONTESTED: tuple[Reason, ...] = ("no-candidate", "frozen")
# Statuses of a call after which its proposal is not asked for again; the other failures may pass.
FINAL_STATUSES: tuple[CallStatus, ...] = ("ok", "unchanged", "no-entry", "refused")
ANSWERED: tuple[CallStatus, ...] = ("ok", "unchanged")  # all others are failures
# Statuses of a call that brought no text, and so no token counts either.
ANSWERLESS: tuple[CallStatus, ...] = ("no-entry", "refused", "error")


def content_hash(*parts: object) -> str:
    """Hash JSON-serialisable parts: the first 128 bits of SHA-256, as 32 hex digits."""
    return hashlib.sha256(_encode(parts)).hexdigest()[:32]


def hash_stream(parts: Iterable[object]) -> str:
    """The content hash of parts that are there one at a time."""
    digest, before = hashlib.sha256(b"["), b""
    for part in parts:
        digest.update(before + _encode(part))
        before = b","
    digest.update(b"]")
    return digest.hexdigest()[:32]


def content_part(id: str) -> str:
    """What of the id of a sample, version or call does not depend on where its sample stands in the data."""
    return id.rpartition("-")[2]


def half_of(sample_id: str) -> Half:
    """Which half a sample is in, by the last hex digit of its id: the odd ones are in half 1."""
    return 1 if sample_id[-1] in _ODD else 0


def position_part(id: str) -> str:
    """What precedes that, so that the rows of neighbours lie together; empty in runs of earlier versions."""
    return id[: -len(content_part(id))]


_JSON = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), sort_keys=True)


def _encode(value: object) -> bytes:
    return _JSON.encode(value).encode("ascii")


# Fields of a message by which it calls tools, and all that are part of what is said beside role and content.
CALLING_FIELDS = ("tool_calls", "function_call", "function_calls")
TOLD_FIELDS = ("name", "tool_calls", "function_call", "tool_call_id", "function_calls")


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str  # "system", "user", "assistant", or what the data calls another speaker, such as "tool"
    content: str
    more: str = ""  # all its other fields as a JSON object; empty where there are none

    def as_message(self) -> dict[str, Any]:
        """The turn as OpenAI's messages have it, whole."""
        return {"role": self.role, "content": self.content} | (json.loads(self.more) if self.more else {})

    @property
    def told(self) -> dict[str, Any]:
        """Those of its other fields that are part of what was said: teacher and student are given them."""
        more = json.loads(self.more) if self.more else {}
        return {name: more[name] for name in TOLD_FIELDS if not is_empty(more.get(name))}

    @property
    def calls_tools(self) -> bool:
        """Whether it asks for tools, beside what it says."""
        return not self.told.keys().isdisjoint(CALLING_FIELDS)

    @classmethod
    def of_message(cls, message: Mapping[str, Any]) -> "Turn":
        """The turn of such a message."""
        more = {name: value for name, value in message.items() if name not in ("role", "content")}
        return cls(message["role"], message["content"], json.dumps(more, ensure_ascii=False) if more else "")


@dataclass(frozen=True, slots=True)
class Pair:
    """One instruction with its input (may be empty) and the response to it, after the turns before them.

    The context, a system message and earlier exchanges, is given: no teacher changes it.
    """

    instruction: str
    input: str
    response: str
    context: tuple[Turn, ...] = ()

    @property
    def content_hash(self) -> str:
        """Hash of the three texts and of the context, where there is one."""
        turns = ([turn.role, turn.content, turn.more] for turn in self.context)
        return content_hash(self.instruction, self.input, self.response, *turns)


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """A given conversation, whole. Samples that come of the same one share this object."""

    turns: tuple[Turn, ...]


class Pairs(Protocol):
    """Pairs in an order, however many: every iteration reads them anew, one after another."""

    def __len__(self) -> int:
        """How many they are."""

    def __iter__(self) -> Iterator[Pair]:
        """All of them, in their order."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One record of the given dataset: the thing whose pair evolves."""

    id: str
    position: int  # index in the given data, from 0
    split: Split
    pair: Pair
    meta: dict[str, Any] = field(default_factory=dict)
    conversation: Conversation | None = None  # None for a pair that stands alone
    turn: int = 0  # index in the conversation of the user's turn: what is before it is the pair's context

    @property
    def is_followed(self) -> bool:
        """Whether later turns depend on its instruction, which is then not to be rewritten."""
        return self.conversation is not None and len(self.conversation.turns) > self.turn + 2


@dataclass(frozen=True, slots=True)
class SkippedRows:
    """Rows of the given data that were left out for one reason."""

    kind: str
    number: int
    examples: tuple[str, ...]  # where some of them stand and what is wrong there


@dataclass(frozen=True, slots=True)
class Version:
    """One state of a sample's pair: the given one, or what a teacher proposed for its parent."""

    sample_id: str
    parent_id: str | None  # None for the given pair
    round: int  # 0 for the given pair
    phase: Origin
    candidate: int  # index among the proposals for one parent, from 0
    pair: Pair
    teacher_call_id: str | None = None

    @property
    def id(self) -> str:
        """Its sample's position, and a content hash over the pair, its place in the run and its parent."""
        parent = None if self.parent_id is None else content_part(self.parent_id)
        place = (content_part(self.sample_id), parent, self.round, self.phase, self.candidate)
        texts = (self.pair.instruction, self.pair.input, self.pair.response)
        return position_part(self.sample_id) + content_hash(*place, *texts)


@dataclass(frozen=True, slots=True)
class Reflection:
    """A proposal to ask for: one candidate for one incumbent in one round and phase."""

    sample_id: str
    incumbent_id: str  # version id
    pair: Pair
    round: int
    phase: Phase
    candidate: int  # from 0
    attempts: int = 0  # calls already made for it
    spared: int = 0  # how many of them do not count, since their phase failed as a whole


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request to an engine.

    `error` is None for an answered request, else
        refused-request  the server says the request itself is wrong: asking the same again is useless
        no-entry         a recording, or a cache that is asked alone, has nothing for it
        unavailable      nobody took the request: no connection, or too busy; not the request's fault
        failed           anything else that may pass
    """

    request_id: str
    text: str = ""
    finish_reason: str | None = None
    error: AnswerError | None = None
    message: str | None = None  # what went wrong, where something did
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    cached: bool = False  # nobody was asked: it had been paid for before
    ids: tuple[int, ...] = ()  # the tokens of `text`, where vLLM wrote it
    server: str | None = None  # address of the server that was asked, without user, query and key


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to a model, and what came of it."""

    attempt: int  # from 1
    engine: str
    model: str
    prompt_hash: str
    text: str
    finish_reason: str | None
    status: CallStatus
    error: str | None
    prompt_tokens: int | None  # None where the engine does not count
    completion_tokens: int | None
    cost_usd: float | None  # None where prices are unknown; 0 for an answer from the cache
    seconds: float
    cached: bool = False  # whether nobody was asked, since the answer had been paid for before
    server: str | None = None  # address of the server that was asked; None where none was

    def is_final(self, attempts: int) -> bool:
        """Whether nothing more is asked for the same, where it may be asked for so many times."""
        return is_final(self.status, self.attempt, attempts)


def is_final(status: CallStatus, attempt: int, attempts: int) -> bool:
    """Whether the last call for something leaves nothing to ask, where it may be asked for so many times."""
    return status in FINAL_STATUSES or attempt >= attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCall(Call):
    """A request for a proposal."""

    round: int
    phase: Phase
    sample_id: str
    candidate: int
    critique: str | None  # None where the answer did not parse

    @property
    def id(self) -> str:
        """Hash of the call's place in the run, after its sample's position; the same in a resumed run."""
        place = (self.round, self.phase, content_part(self.sample_id), self.candidate, self.attempt)
        return position_part(self.sample_id) + content_hash(*place)


@dataclass(frozen=True, slots=True)
class Spending:
    """What calls took, as far as it is known: a call without a count or a price adds nothing.

    Nor does an answer from the cache.
    """

    tokens: int  # of prompts and answers
    usd: float

    def plus(self, call: Call) -> "Spending":
        """With one more call."""
        if call.cached:
            return self
        tokens = (call.prompt_tokens or 0) + (call.completion_tokens or 0)
        return Spending(self.tokens + tokens, self.usd + (call.cost_usd or 0.0))


@dataclass(frozen=True, slots=True)
class Score:
    """Log-probability of one target under one student.

    `sum_logprob` is in nats over `num_tokens` target tokens. Both are None unless `status` is "ok".
    """

    sum_logprob: float | None
    num_tokens: int | None
    status: ScoreStatus
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What a phase decided for one sample. Values are in the policy's unit; None where not compared."""

    round: int
    phase: Phase
    sample_id: str
    student_id: str | None  # whose scores were compared; None where none were
    policy: str
    incumbent_id: str
    winner_id: str
    challenger_id: str | None  # the best scorable candidate
    reason: Reason
    incumbent_value: float | None
    winner_value: float | None
    challenger_value: float | None
    margin: float


@dataclass(frozen=True, slots=True)
class StudentRecord:
    """One student: the base model (round 0) or the adapter that a round trained on it."""

    id: str  # "s0", "s1", ...
    round: int
    base_model: str
    base_revision: str | None
    adapter: str | None  # folder relative to the run's; None for the base model
    adapter_hash: str | None
    parent_id: str | None
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One held-out measure with its 95 % interval over `n` samples; None bounds where n < 2."""

    name: str
    value: float
    n: int
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class HeldOutAnswer:
    """What a student wrote for one held-out pair. No text where there is none, as to too long a prompt."""

    sample_id: str
    text: str | None
    num_tokens: int | None  # the student's own, without the one that ends it
    verdict: float | None  # the checker's; None without one, or where it cannot say


@dataclass(frozen=True, slots=True)
class Contest:
    """One sample's incumbent and the proposals that challenge it in a phase."""

    sample_id: str
    incumbent_id: str
    candidate_ids: tuple[str, ...]
    pairs: Mapping[str, Pair]  # of the incumbent and every candidate, by version id
    is_frozen: bool = False  # whether the sample is left alone in this phase


@dataclass(frozen=True, slots=True)
class PoolPair:
    """One sample's pair in the pool D[r], with its scores under one student."""

    version_id: str
    improved: bool  # whether its response was improved in this round or an earlier one
    scores: Mapping[Term, Score]


@dataclass(frozen=True, slots=True)
class Proposed:
    """One proposal of the teacher, the pair it was made for, and whether it was taken."""

    position: int  # of the sample in the given data
    incumbent: Pair
    candidate: Pair
    accepted: bool


Scores = Mapping[str, Mapping[Term, Score]]  # version id -> term -> score
