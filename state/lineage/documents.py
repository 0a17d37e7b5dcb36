"""The documents that the lineage tells, as `--json` prints them. Their keys only grow.

Numbers that are not known are None. A `student` is an id: "s0", "s1", ...
"""

from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

from reflectune.state.records import CallStatus, Origin, Outcome, Phase, Reason, Split

T = TypeVar("T")


class Place(TypedDict):
    """A phase of a round."""

    round: int
    phase: Phase


class BothSides(TypedDict, Generic[T]):
    """The same of two things that are compared."""

    before: T
    after: T


class AlarmDocument(TypedDict):
    """What a round comes to in one of the table of alarms, which has its unit; threshold None: it is off."""

    name: str
    value: float
    threshold: float | None
    fires: bool


class MeanMedian(TypedDict):
    """Mean and median of what could be measured."""

    mean: float | None
    median: float | None


class Share(TypedDict):
    """A share of n, with its 95 % interval; None where n is 0."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class Matching(TypedDict):
    """Whether a student tells pairs from the same with another's response, by measure: ifd and r_ifd."""

    pairs: int  # that could be scored
    matched: dict[str, Share]  # how often a pair is below one with another pair's response
    below_one: dict[str, float | None]  # share of the pairs
    below_one_shuffled: dict[str, float | None]  # of pairs with another's response
    follows_length: dict[str, float | None]  # rank correlation with the response's tokens; of nll too


class SignalDocument(Matching):
    """What s[0] told of a few given pairs before it decided about anything."""

    longer: dict[Phase, Share]  # of their contests in round 1: how often the one of more characters went on
    warnings: list[str]


class RunHead(TypedDict):
    """A run in a line: its status as last written, and why the loop stopped."""

    name: str
    created_at: str
    status: str
    rounds: int  # at most
    stop_reason: str | None


class SkippedDocument(TypedDict):
    """Rows of the given data that were left out for one reason, with where some of them stand."""

    kind: str
    number: int
    examples: list[str]


class GivenDocument(TypedDict):
    """What of the given data is exchanges of conversations, and what was left out, the largest kind first."""

    conversations: int
    exchanges: int  # samples that are of them; the others stand alone
    followed: int  # samples whose instruction stays, since later turns depend on it
    skipped: list[SkippedDocument]


class Settings(TypedDict):
    """What a run is made of; `config` is the newest."""

    config: dict[str, Any]
    data_hash: str
    versions: dict[str, str]
    seed: int
    changes: list[dict[str, Any]]  # changed_at, key, before, after


class CallSums(TypedDict):
    """Teacher calls, and what those took that the cache did not answer; None where a figure is missing."""

    calls: int
    cached: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    tokens_per_accepted: NotRequired[float | None]
    cost_per_accepted_usd: NotRequired[float | None]


class ReasonDocument(TypedDict):
    """What teacher calls failed for, and how many did; the message is that of one of them."""

    status: CallStatus
    message: str | None
    number: int


class PhaseDocument(TypedDict):
    """Samples by what reflection came to, the accepted and those left alone, and the calls by status."""

    reflected: int
    unchanged: int
    failed: int
    decided: int  # the samples of which a proposal was decided about
    accepted: int
    frozen: int
    teacher: CallSums
    statuses: dict[CallStatus, int]
    reasons: list[ReasonDocument]  # the three that most calls failed for


class ContestDocument(TypedDict):
    """Samples by what a judge said of a student's answers beside an opponent's, in both orders."""

    opponent: str  # a student, or "references"
    wins: int
    ties: int
    losses: int
    disagreed: int  # the orders say different things: ties as well
    undecided: int  # without a verdict in one of the orders


class JudgeDocument(TypedDict):
    """What the judge was asked about one student's answers, and what it said."""

    calls: CallSums
    contests: list[ContestDocument]


class RoundDocument(TypedDict):
    """One round, as `show` has it. Means and medians are of the pool, under the student that decided."""

    round: int
    student: str | None
    pool: int
    training: int
    training_truncated: int  # pairs of these whose response or context was cut in training
    frozen: int  # left alone after repeated refusals
    instruction: PhaseDocument
    response: PhaseDocument
    ifd: MeanMedian
    r_ifd: MeanMedian
    response_tokens: float | None
    evaluations: dict[str, float]
    alarms: list[AlarmDocument]  # of what is known, whether or not it fires
    judge: JudgeDocument | None  # of the student that the round trained; None where nobody judged it
    teacher: CallSums
    servers: dict[str, int]  # calls by the address of the server that was asked
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


class BestDocument(EvaluationDocument):
    """The best round's student by the held-out measure that stopping goes by."""

    is_end: bool  # whether the run ends with its best round (stop.rollback), else with its last one


class Measures(TypedDict):
    """What one student makes of a version."""

    ifd: float | None
    r_ifd: float | None
    response_tokens: int | None
    status: str


class ScoreDocument(Measures):
    """The same with all that it is derived from: mean negative log-likelihoods in nats per token."""

    student: str
    nll_response_given_instruction: float | None
    nll_response_alone: float | None
    nll_instruction_given_response: float | None
    nll_instruction_alone: float | None
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
    server: str | None  # that proposed it; None where no server was asked
    scores: list[ScoreDocument]
    current: bool


class DecisionDocument(Place):
    """What a phase decided for a sample. Values are in the policy's unit."""

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


class FailureDocument(Place):
    """A teacher call without a proposal."""

    candidate: int
    attempt: int
    status: CallStatus
    error: str | None
    text: str  # as it was answered; empty where nothing was
    server: str | None


class CallDocument(FailureDocument):
    """A teacher call with what is known of it."""

    id: str
    engine: str
    model: str
    finish_reason: str | None
    critique: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    seconds: float
    cached: bool


class Trace(TypedDict):
    """One sample through all rounds. `context` are the messages before its exchange, as given."""

    sample: str
    position: int
    split: Split
    meta: dict[str, Any]  # the other fields of the given record
    context: list[dict[str, Any]]
    turn: int  # how many messages those are
    later_turns: int  # messages after the exchange: where there are any, its instruction stays
    versions: list[VersionDocument]
    decisions: list[DecisionDocument]
    failures: list[FailureDocument]
    trained_in: list[int]


class FoundPhase(BothSides[float | None]):
    """What a phase came to for a found sample; values are None where the policy compared something else."""

    outcome: Outcome
    reason: Reason
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


class DecisionCount(Place):
    """Decisions about a proposal in a phase, and the accepted ones."""

    decided: int
    accepted: int


class HeldOut(BothSides[dict[str, Any] | None]):
    """A measure of both rounds' students with its interval, and by how much the second is higher.

    The difference has a 95 % interval, pair by pair, where both students were measured on the same pairs; a
    win rate's has none.
    """

    name: str
    difference: float | None
    difference_low: float | None
    difference_high: float | None


class SampleChange(BothSides[dict[str, str]]):
    """A sample whose pair differs between two rounds, with its texts and the phases that took something."""

    sample: str
    position: int
    accepted: list[Place]
    r_ifd: dict[str, Any] | None  # before, after, under one student
    characters: BothSides[int]  # of the response


class RoundsCompared(BothSides[int]):
    """Two rounds of a run, with its name where `compare` has them."""

    name: NotRequired[str]
    pairs: dict[str, int]  # by what differs
    decisions: list[DecisionCount]
    acceptance: BothSides[dict[Phase, float | None]]
    response_characters: BothSides[MeanMedian]
    scores: list[dict[str, Any]]  # by student, both pools: ifd and r_ifd
    held_out: list[HeldOut]
    training: dict[str, int]
    samples: list[SampleChange]


class RunsCompared(TypedDict):
    """Two runs, with their names and status where `compare` has them.

    What both have stands in a list of two, the first run's first.
    """

    names: NotRequired[list[str]]
    status: NotRequired[list[str]]
    same: dict[Literal["data", "held_out", "base_model"], bool]
    base_models: list[dict[str, str | None]]
    config: list[dict[str, Any]]
    rounds: list[dict[str, Any]]
    samples: dict[str, Any]
    decisions: list[dict[str, Any]]


class Distribution(TypedDict):
    """Values of some rounds, counted between common edges, which are logarithmic."""

    edges: list[float]
    rounds: list[dict[str, Any]]  # round, n, counts, mean, low (5 %), q1, median, q3, high (95 %)


class Panel(Distribution):
    """A measure of pools under one student, over the n samples of `of` that it scored in all of them."""

    student: str
    n: int
    of: int
    drawn: int | None  # so many by lot; None where they are those that happened to be scored


Kind = Literal["gain", "narrow", "failure", "journey"]


class Highlight(BothSides[float | None]):
    """A sample that shows much; keys that do not apply are None."""

    sample: str
    position: int
    kind: Kind
    round: int | None
    phase: Phase | None
    reason: Reason | None
    status: CallStatus | None
    accepted: int | None


class Flows(TypedDict):
    """Every training sample's state after each complete round, and the ways between them.

    The counts of a round, and the transitions into it, add up to the pool. A state is one of
        original              round 0; later, nothing was proposed and nothing was ever accepted
        instruction improved  the round took a new instruction, and no response after it
        response improved     the round took a new response, whatever became of the instruction
        refused               it took nothing, and a proposal lost: refused, tie, unscorable, policy
        failed                it took and refused nothing, and a reflection failed
    Where a round proposed nothing without failing (unchanged, frozen, or no budget to ask for it), a sample
    is in its pair's state: what the last accepted proposal made of it, or original. `kept` counts those.
    """

    states: list[dict[str, Any]]  # round, counts by state, kept
    transitions: list[dict[str, Any]]  # round that it leads to, before, after, n


class Evolution(TypedDict):
    """What a report says about a run's samples beyond its rounds."""

    complete: int  # the last round whose pool is complete; 0 is the given data. What is of pools ends there
    acceptance: list[dict[str, Any]]  # round, phase, pool, and samples by outcome or undecided, of all rounds
    flows: Flows
    scores: dict[Literal["ifd", "r_ifd"], list[Panel]]
    lengths: Distribution
    times: list[dict[str, Any]]  # round, started_at, finished_at, status
    telling: list[Highlight]
