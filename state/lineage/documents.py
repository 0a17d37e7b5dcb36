"""The documents that the lineage tells, as `--json` prints them. Their keys only grow.

Numbers that are not known are None. A `student` is an id: "s0", "s1", ...
"""

from typing import Any, Literal, NotRequired, TypedDict

from reflectune.state.lineage.outcomes import Outcome
from reflectune.state.records import CallStatus, Origin, Phase, Reason, Split

__all__ = [
    "CallDocument",
    "CallSums",
    "ConfigChange",
    "DecisionDocument",
    "Distribution",
    "EvaluationDocument",
    "Evolution",
    "FailureDocument",
    "FoundPhase",
    "FoundSample",
    "Highlight",
    "MeanMedian",
    "Panel",
    "PhaseDocument",
    "RoundDocument",
    "RoundsCompared",
    "RunHead",
    "RunsCompared",
    "ScoreDocument",
    "Settings",
    "Trace",
    "VersionDocument",
]


class RunHead(TypedDict):
    """A run in a line: its status as last written, and why the loop stopped."""

    name: str
    created_at: str
    status: str
    rounds: int  # at most
    stop_reason: str | None


class ConfigChange(TypedDict):
    """One key of the config that was changed after the run began."""

    changed_at: str
    key: str
    before: object
    after: object


class Settings(TypedDict):
    """What a run is made of; `config` is the newest."""

    config: dict[str, Any]
    data_hash: str
    versions: dict[str, str]
    seed: int
    changes: list[ConfigChange]


class MeanMedian(TypedDict):
    """Mean and median of what could be measured."""

    mean: float | None
    median: float | None


class CallSums(TypedDict):
    """Teacher calls, and what those took that the cache did not answer; None where a figure is missing."""

    calls: int
    cached: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    tokens_per_accepted: NotRequired[float | None]
    cost_per_accepted_usd: NotRequired[float | None]


class PhaseDocument(TypedDict):
    """Samples by what reflection came to, the accepted, and the teacher's calls by status."""

    reflected: int
    unchanged: int
    failed: int
    accepted: int
    teacher: CallSums
    statuses: dict[CallStatus, int]


class RoundDocument(TypedDict):
    """One round, as `show` has it. Means and medians are of the pool, under the student that decided."""

    round: int
    student: str | None
    pool: int
    training: int
    frozen: int
    instruction: PhaseDocument
    response: PhaseDocument
    ifd: MeanMedian
    r_ifd: MeanMedian
    response_tokens: float | None
    evaluations: dict[str, float]
    teacher: CallSums
    seconds: dict[str, float]  # by node


class EvaluationDocument(TypedDict):
    """One held-out measure of a round's student, with its 95 % interval over n samples."""

    round: int
    student: str
    name: str
    value: float
    n: int
    low: float | None
    high: float | None


class ScoreDocument(TypedDict):
    """What one student makes of a version. Mean negative log-likelihoods in nats per token."""

    student: str
    ifd: float | None
    r_ifd: float | None
    nll_response_given_instruction: float | None
    nll_response_alone: float | None
    nll_instruction_given_response: float | None
    nll_instruction_alone: float | None
    status: str
    response_tokens: int | None
    truncated: bool


class VersionDocument(TypedDict):
    """One state of a sample's pair, with its scores; `current` is its pair now."""

    id: str
    parent: str | None
    round: int
    phase: Origin
    candidate: int
    instruction: str
    input: str
    response: str
    critique: str | None
    scores: list[ScoreDocument]
    current: bool


class DecisionDocument(TypedDict):
    """What a phase decided for a sample. Values are in the policy's unit."""

    round: int
    phase: Phase
    incumbent: str
    winner: str
    policy: str
    reason: Reason
    outcome: Outcome
    incumbent_value: float | None
    winner_value: float | None
    student: str | None
    challenger: str | None
    challenger_value: float | None
    margin: float


class FailureDocument(TypedDict):
    """A teacher call without a proposal."""

    round: int
    phase: Phase
    candidate: int
    attempt: int
    status: CallStatus
    error: str | None


class CallDocument(FailureDocument):
    """A teacher call with its raw text."""

    id: str
    engine: str
    model: str
    finish_reason: str | None
    critique: str | None
    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    seconds: float
    cached: bool


class Trace(TypedDict):
    """One sample through all rounds."""

    sample: str
    position: int
    split: Split
    versions: list[VersionDocument]
    decisions: list[DecisionDocument]
    failures: list[FailureDocument]
    trained_in: list[int]


class FoundPhase(TypedDict):
    """What a phase came to for a found sample; values are None where the policy compared something else."""

    outcome: Outcome
    reason: Reason
    before: float | None
    after: float | None
    change: float | None


class FoundSample(TypedDict):
    """One sample in one round; a phase is None while it is not decided."""

    sample: str
    position: int
    split: Split
    round: int
    instruction: FoundPhase | None
    response: FoundPhase | None
    length_growth: float | None
    trained: bool | None  # None before the training set is chosen
    text: str  # how the instruction in the pool begins after the round


class DecisionCount(TypedDict):
    """Decisions about a proposal in a phase, and the accepted ones."""

    round: int
    phase: Phase
    decided: int
    accepted: int


class HeldOut(TypedDict):
    """A measure of both rounds' students, and by how much the second is higher."""

    name: str
    before: EvaluationDocument | None
    after: EvaluationDocument | None
    difference: float | None


class ScoresCompared(TypedDict):
    """A measure over the samples for which it is known in both pools."""

    known: int
    changed: int
    before: MeanMedian
    after: MeanMedian


class StudentScores(TypedDict):
    """Both pools under one student."""

    student: str
    ifd: ScoresCompared
    r_ifd: ScoresCompared


class PairText(TypedDict):
    """A version with its texts."""

    version: str
    instruction: str
    input: str
    response: str


class PairChange(TypedDict):
    """A sample's r-IFD before and after, under one student."""

    student: str
    before: float
    after: float


class SampleChange(TypedDict):
    """A sample whose pair differs between two rounds, with the phases that took something."""

    sample: str
    position: int
    accepted: list[dict[Literal["round", "phase"], object]]
    r_ifd: PairChange | None
    characters: dict[Literal["before", "after"], int]  # of the response
    before: PairText
    after: PairText


class RoundsCompared(TypedDict):
    """Two rounds of a run, with its name where `compare` has them."""

    name: NotRequired[str]
    before: int
    after: int
    pairs: dict[str, int]  # by what differs
    decisions: list[DecisionCount]
    acceptance: dict[Literal["before", "after"], dict[Phase, float | None]]
    response_characters: dict[Literal["before", "after"], MeanMedian]
    scores: list[StudentScores]
    held_out: list[HeldOut]
    training: dict[str, int]
    samples: list[SampleChange]


class Distribution(TypedDict):
    """Values of some rounds, counted between common edges."""

    edges: list[float]
    rounds: list[dict[str, Any]]  # round, n, counts, mean, low (5 %), q1, median, q3, high (95 %)


class Panel(Distribution):
    """A measure of pools under one student, over the n samples of `of` that it scored in all of them."""

    student: str
    n: int
    of: int
    drawn: int | None  # so many by lot; None where they are those that happened to be scored


class Highlight(TypedDict):
    """A sample that shows much; keys that do not apply are None."""

    kind: Literal["gain", "narrow", "failure", "journey"]
    sample: str
    position: int
    round: int | None
    phase: Phase | None
    reason: Reason | None
    before: float | None
    after: float | None
    status: CallStatus | None
    accepted: int | None


class Flows(TypedDict):
    """Every training sample's state after each complete round, and the ways between them."""

    states: list[dict[str, Any]]  # round, counts, kept
    transitions: list[dict[str, Any]]  # round, before, after, n


class Evolution(TypedDict):
    """What a report says about a run's samples beyond its rounds."""

    complete: int  # the last round whose pool is complete
    acceptance: list[dict[str, Any]]  # round, phase, pool, and samples by outcome
    flows: Flows
    scores: dict[Literal["ifd", "r_ifd"], list[Panel]]
    lengths: Distribution
    times: list[dict[str, Any]]  # round, started_at, finished_at, status
    telling: list[Highlight]


class RunsCompared(TypedDict):
    """Two runs, with their names and status where `compare` has them; the first one's stand first."""

    names: NotRequired[list[str]]
    status: NotRequired[list[str]]
    same: dict[Literal["data", "held_out", "base_model"], bool]
    base_models: list[dict[str, str | None]]
    config: list[dict[str, Any]]
    rounds: list[dict[str, Any]]
    samples: dict[str, Any]
    decisions: list[dict[str, Any]]
