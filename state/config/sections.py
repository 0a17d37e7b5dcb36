"""The keys of a run's configuration: one pydantic model, every field documented with its unit.

The docstring under a field is its documentation everywhere: `reflectune init` writes it as the comment above
the key, and the table of keys is made from it.
"""

import datetime
import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import Field, StrictFloat, StrictInt, ValidationInfo, field_validator, model_validator

from reflectune.state.config.engines import SELF, EngineConfig, JudgeConfig, Section, TeacherConfig
from reflectune.state.policies import POLICIES, is_own
from reflectune.state.records import PHASES, Column, DataFormat, OddKind, Phase, Turns, content_hash

__all__ = [
    "SELF", "AlarmsConfig", "Column", "DataConfig", "EngineConfig", "JudgeConfig", "OddKind",
    "RefinetuneConfig", "RunConfig", "Section", "SelectionConfig", "StudentConfig", "TeacherConfig",
]  # fmt: skip

# A function of the user's own.
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Threshold = float | Literal["off"]

# What the thresholds of alarms may be, in words and as a test: others would fire always or never.
_SHARE = "a number between 0 and 1", lambda value: 0 < value < 1
_THRESHOLDS: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "length": ("a number from 1 on", lambda value: 1 <= value < math.inf),
    "diversity": ("a number above 0, at most 1", lambda value: 0 < value <= 1),
    "openings": _SHARE,
    "duplicates": _SHARE,
    "acceptance": ("a number between 0 and 0.5", lambda value: 0 < value < 0.5),
    "ifd_drift": ("a number above 1", lambda value: 1 < value < math.inf),
    "held_out": ("a number above 0", lambda value: 0 < value < math.inf),
    "entities": _SHARE,
}


class DataConfig(Section):
    """The instruction-tuning pairs to recycle: a file or a hub dataset."""

    path: str | None = None
    """File of pairs, a folder of files or a pattern such as data/*.jsonl. Relative to this file."""
    hf: str | None = None
    """Dataset of the Hugging Face hub, or a folder like one, instead of `path`. Relative to this file."""
    subset: str | None = None
    """Subset of the hub dataset, also called its config; unset takes its default."""
    split: str = "train"
    """Split of the hub dataset."""
    format: DataFormat = "auto"
    """How a record holds its pair; auto looks at the fields."""
    columns: dict[Column, str] = {}
    """Fields of other names, such as {instruction = "query", response = "reply", system = "persona"}."""
    roles: dict[Literal["user", "assistant", "system", "tool"], list[str]] = {}
    """Speakers of other names, such as {user = ["Customer"], assistant = ["Agent"]}."""
    turns: Turns = "last"
    """Which exchange of a conversation is recycled; with each, all are, as samples of their own."""
    limit: int | None = Field(default=None, ge=1)
    """Take only the first so many pairs."""
    holdout: StrictInt | StrictFloat = Field(default=0.05, ge=0)
    """Pairs kept apart for evaluation: a count (60) or a share (0.05). Equal instructions stay together."""
    ignore: list[str] = []
    """Fields that are known not to matter: kept with the sample, and no longer warned about."""
    odd: dict[OddKind, Literal["refuse", "skip"]] = {}
    """Rows to skip, not refuse, by kind, as {tools = "skip"}; earlier_tools, in contexts, are else taken."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.path) == bool(self.hf):
            raise ValueError("set exactly one of path and hf")
        if self.subset is not None and self.hf is None:
            raise ValueError("subset is for hf only; unset it")
        if isinstance(self.holdout, float) and self.holdout >= 1:
            raise ValueError("a holdout share must be below 1; write a whole number for a count")
        return self


class StudentConfig(Section):
    """The language model that is trained, and that scores every proposal."""

    model: str
    """Folder or hub name of the base model. A folder is relative to this file."""
    revision: str | None = None
    """Revision of a hub model."""
    template: str = "chat"
    """Prompts it is trained and scored with: chat (its own chat template), plain, vicuna, or a TOML file."""
    thinking: bool = False
    """Let it, and a teacher on this machine, think before answering, if its chat template has that switch."""
    date: datetime.date = datetime.date(2024, 7, 26)
    """Today's date for chat templates that print it; the same from a run's beginning to its end."""
    separator: str | None = None
    """Token in front of a text that is scored alone; unset takes BOS, or what separates documents."""
    max_length: int = Field(default=2048, ge=8)
    """Most tokens of prompt and target together; a longer target is cut at its end."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format; auto: its own, bfloat16 for float32 on CUDA; on a CPU float32 or faster bfloat16."""
    load_in_4bit: bool = False
    """Hold 4-bit (NF4) weights wherever the student is used; needs bitsandbytes, on CUDA or a CPU."""
    device: str = "auto"
    """torch device; auto takes cuda, then mps, then cpu."""
    batch_tokens: int = Field(default=2048, ge=8)
    """Most tokens in one pass; halved where memory runs out. On a CPU 1024 at most."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; unset takes the number that a short measurement finds fastest. A run keeps it."""


class SelectionConfig(Section):
    """Which proposals the student takes, and which pairs it trains on."""

    policy: str = "ifd+r-ifd"
    """Rule of both phases: a name of loop/README.md's table, or module:function of your own."""
    scorer: Literal["newest", "base"] = "newest"
    """Whose scores decide: those of the student that the last round trained, or always the base model's."""
    margin: float = Field(default=0.0, ge=0.0)
    """A proposal must be better by more than this, in the policy's unit."""
    length_band: float = Field(default=1.5, gt=1.0)
    """lc-ifd, lc-r-ifd, surprise: most times the incumbent's response tokens, and that the proposal's."""
    train_max_ifd: float = Field(default=1.0, gt=0.0)
    """Train only on pairs with an IFD below this."""
    ifd_cap: float | None = Field(default=None, gt=0.0)
    """Policies ifd and ifd+r-ifd: pairs with an IFD below this beat all others, whatever the margin."""
    train_max_r_ifd: float = Field(default=1.0, gt=0.0)
    """Train only on pairs with a reversed IFD below this."""
    keep: Literal["improved", "all"] = "improved"
    """Train on pairs whose response was improved in some round, or on all."""
    top_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    """Then train on this share only, hardest (highest IFD) first."""
    random_rate: float | list[float] = 0.5
    """Share of proposals that policy random takes; or a list of two a round, for instruction and response."""
    cross_fit: bool = False
    """From round 2 on let two students decide, each trained on one half, about the pairs of the other."""

    def deciding(self, round: int) -> int:
        """The round whose student decides in a round."""
        return 0 if self.scorer == "base" else round - 1

    def random_share(self, round: int, phase: Phase) -> float:
        """The share of proposals that policy random takes in a phase of a round."""
        if not isinstance(self.random_rate, list):
            return self.random_rate
        by_round = self.random_rate[PHASES.index(phase) :: len(PHASES)]
        return by_round[min(round, len(by_round)) - 1]

    @field_validator("random_rate", mode="before")
    @classmethod
    def _rates_are_shares(cls, given: Any) -> Any:
        rates = given if isinstance(given, list) and len(given) % len(PHASES) == 0 else [given]
        if not rates or not all(isinstance(rate, int | float) and 0 <= rate <= 1 for rate in rates):
            raise ValueError("want a share from 0 to 1, or a list of such, two a round")
        return given

    @field_validator("policy")
    @classmethod
    def _policy_is_known(cls, name: str) -> str:
        if name not in POLICIES and not _FUNCTION.fullmatch(name):
            near = difflib.get_close_matches(name, POLICIES, 1)
            raise ValueError(
                f"{name!r} is no policy; want {', '.join(POLICIES)} or module:function"
                + (f" (did you mean {near[0]}?)" if near else "")
            )
        return name


class RefinetuneConfig(Section):
    """The LoRA refinetune that ends a round."""

    r: int = Field(default=16, ge=1)
    """LoRA rank."""
    alpha: int = Field(default=32, ge=1)
    """LoRA scale; the update is multiplied by alpha / r."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout in front of the LoRA matrices."""
    target_modules: str | list[str] = "all-linear"
    """Layers that get an adapter: names, or all-linear for every linear layer but the head."""
    lr: float = Field(default=2e-4, gt=0.0, le=1.0)
    """Peak learning rate."""
    epochs: int | None = Field(default=3, ge=1)
    """Passes over the round's training set; set this or `tokens`."""
    tokens: int | None = Field(default=None, ge=1)
    """Train on about so many tokens instead, prompts included, however many passes that takes."""
    batch_tokens: int = Field(default=8192, ge=8)
    """Tokens per optimizer step, prompts included."""
    warmup: Share = 0.03
    """Share of the steps in which the learning rate rises."""
    start_from: Literal["base", "previous"] = "base"
    """Start each round's adapter fresh on the base model, or go on with the previous round's."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass: a third more time for less memory; comes on by itself."""
    turns: Literal["recycled", "all"] = "recycled"
    """Train on the recycled response alone, or on every earlier answer in its conversation too."""
    anchor: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the training set that is original pairs, against collapse."""

    @model_validator(mode="before")
    @classmethod
    def _tokens_take_the_place_of_epochs(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("tokens") is not None:
            return {"epochs": None} | values
        return values

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.tokens is None):
            raise ValueError("set epochs or tokens, not both")
        return self


class EvaluateConfig(Section):
    """Held-out measures of each new student."""

    every: int = Field(default=1, ge=1)
    """Evaluate every so many rounds, and after the last."""
    checker: str | None = None
    """module:function(instruction, input, response, reference): is an answer right? None: nobody can say."""
    answers: int = Field(default=500, ge=0)
    """Held-out pairs the student answers, at most, always these: 500 tell a share to 4.4 points. 0: none."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest held-out answer the student may write, in tokens."""
    base_samples: int = Field(default=1000, ge=0)
    """Training pairs that the base student scores each round, always these, so that rounds compare."""


class AlarmsConfig(Section):
    """From where on a round's figures say that something goes wrong; "off": never."""

    length: Threshold = 5.0
    """Median response tokens of the pool, in times round 0's: above this."""
    diversity: Threshold = 0.7
    """Distinct among all word trigrams of the pool's responses, in times round 0's: below this."""
    openings: Threshold = 0.25
    """Share of responses that begin with the commonest three words, less round 0's: above this."""
    duplicates: Threshold = 0.2
    """Share of responses with a near duplicate in another sample, less round 0's: above this."""
    acceptance: Threshold = 0.02
    """Share of proposals that were accepted: closer than this to 0 or 1."""
    ifd_drift: Threshold = 3.0
    """Median IFD of the pool under the base student, in times round 0's: above this, or below 1 / this."""
    held_out: Threshold = 1.0
    """How far a held-out measure is behind the best before, in half-widths of its interval: above this."""
    entities: Threshold = 0.5
    """Share of pairs with fewer than half of their first instruction's numbers, quotes, names: above this."""

    @field_validator("*")
    @classmethod
    def _can_fire_and_need_not(cls, threshold: Threshold, info: ValidationInfo) -> Threshold:
        want, fits = _THRESHOLDS[str(info.field_name)]
        if threshold != "off" and not fits(threshold):
            raise ValueError(f'got {threshold}, which would fire always or never; want {want}, or "off"')
        return threshold


class StopConfig(Section):
    """When to stop before the last round. A round that accepts nothing always ends the run."""

    patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations in a row without a better held-out measure."""
    min_acceptance: Share = 0.0
    """Stop when a round accepts a smaller share of its proposals than this."""
    max_drop: float | None = Field(default=None, ge=0.0)
    """Stop when the held-out measure is worse than its best by more than this, relative to the best."""
    rollback: bool = False
    """End with the round of the best held-out measure, its pool and student; later rounds stay stored."""
    max_failures: Share = 0.5
    """Fail, resumably, when more than this share of a phase's proposals fail for one reason; 1: never."""


class ScaleConfig(Section):
    """How many models work at once, and where. Nothing here alters a row of the lineage."""

    engine: Literal["local", "ray"] = "local"
    """local: one student and one teacher on this machine; ray: many on a cluster; needs the extra ray."""
    address: str | None = None
    """Address of the Ray cluster; unset takes RAY_ADDRESS, a cluster that runs here, or else starts one."""
    students: int = Field(default=1, ge=1)
    """Students of a cluster that score at once."""
    gpus_per_student: float | None = Field(default=None, ge=0.0)
    """GPUs of each student and trainer; unset takes one where the cluster has any."""
    teachers: int = Field(default=1, ge=1)
    """Replicas of a vllm or transformers teacher on a cluster."""
    gpus_per_teacher: float | None = Field(default=None, ge=0.0)
    """GPUs of each teacher; unset takes teacher.tensor_parallel_size where the cluster has any."""
    trainers: int = Field(default=1, ge=1)
    """Workers that train one student together; 1 trains on this machine unless engine is ray."""
    overlap: bool = False
    """Reflect and select at once, for both phases: for a teacher on a server, or on GPUs of its own (ray)."""

    @field_validator("gpus_per_student", "gpus_per_teacher")
    @classmethod
    def _gpus_are_whole_or_parts_of_one(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(
                "Ray gives a share of one GPU, or whole ones; take a number below 1, or a whole one"
            )
        return gpus


class TrackConfig(Section):
    """Experiment trackers that are told of losses and rounds, beside the lineage."""

    to: list[Literal["wandb", "tensorboard", "mlflow", "trackio"]] = []
    """Trackers; each is installed by itself, and goes by its own settings of keys, address, offline work."""
    project: str = Field(default="reflectune", min_length=1)
    """Project of the trackers, in mlflow the experiment."""


class PublishConfig(Section):
    """What the card of a published repository says."""

    license: str | None = None
    """Licence of data or model, by the hub's name for it, such as apache-2.0."""
    sources: list[str] = []
    """Where the data comes from: datasets of the hub, or in words."""
    language: list[str] = []
    """Languages of the data, by their codes, such as en."""


class RunConfig(Section):
    """Everything a run depends on."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the run, and of its folder."""
    rounds: int = Field(default=3, ge=1)
    """Most rounds of reflection, selection and refinetune."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of everything random: split, sampling, training."""
    data: DataConfig
    teacher: TeacherConfig
    student: StudentConfig
    selection: SelectionConfig = SelectionConfig()
    refinetune: RefinetuneConfig = RefinetuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    judge: JudgeConfig | None = None
    stop: StopConfig = StopConfig()
    alarms: AlarmsConfig = AlarmsConfig()
    scale: ScaleConfig = ScaleConfig()
    track: TrackConfig = TrackConfig()
    publish: PublishConfig = PublishConfig()

    @model_validator(mode="after")
    def _stopping_has_a_measure(self) -> Self:
        stop = self.stop
        if self.data.holdout == 0 and (stop.patience or stop.max_drop is not None or stop.rollback):
            raise ValueError(
                "stop.patience, stop.max_drop and stop.rollback need held-out pairs; set data.holdout"
            )
        return self

    @model_validator(mode="after")
    def _judge_has_answers(self) -> Self:
        if self.judge is not None and not (self.data.holdout and self.evaluate.answers):
            raise ValueError("judge needs held-out answers; set data.holdout and evaluate.answers")
        return self

    @model_validator(mode="after")
    def _answers_are_trained_on_once(self) -> Self:
        if (self.data.turns, self.refinetune.turns) == ("each", "all"):
            raise ValueError(
                'refinetune.turns = "all": with data.turns = "each" every answer is a pair of its own; set '
                'refinetune.turns = "recycled"'
            )
        return self

    @model_validator(mode="after")
    def _student_is_one_model(self) -> Self:
        if self.student.load_in_4bit and (self.teacher.engine, self.teacher.model) == ("vllm", SELF):
            raise ValueError(
                "student.load_in_4bit: vLLM would teach with other weights than the student's; set "
                'teacher.engine = "transformers", or another teacher.model'
            )
        return self

    @model_validator(mode="after")
    def _halves_are_trained_apart(self) -> Self:
        if self.selection.cross_fit and self.refinetune.start_from == "previous":
            raise ValueError('selection.cross_fit: start_from = "previous" has seen both halves; unset it')
        if self.selection.cross_fit and self.selection.scorer == "base":
            raise ValueError('selection.cross_fit: scorer = "base" was trained on no pair; unset one of both')
        if self.selection.cross_fit and self.scale.overlap:
            raise ValueError(
                "selection.cross_fit: halves are decided one after the other; unset scale.overlap"
            )
        if self.selection.cross_fit and self.scale.engine == "ray":
            raise ValueError(
                'selection.cross_fit: halves are trained on this machine; unset scale.engine = "ray"'
            )
        return self

    @model_validator(mode="after")
    def _overlap_has_two_devices(self) -> Self:
        if self.scale.engine == "ray" and is_own(self.selection.policy):
            raise ValueError(
                f"selection.policy = {self.selection.policy}: your own function is not sent to a cluster: "
                'set scale.engine = "local"'
            )
        if self.scale.overlap and self.teacher.engine == "batch":
            raise ValueError('scale.overlap: engine "batch" answers whole phases only; unset it')
        if self.scale.overlap and self.teacher.is_local and self.scale.engine != "ray":
            raise ValueError(
                f'scale.overlap: engine "{self.teacher.engine}" takes the device of the student; set '
                'scale.engine = "ray", or ask a server'
            )
        return self

    def content_hash(self) -> str:
        """Hash of the resolved configuration."""
        return content_hash(self.model_dump(mode="json"))

    def to_toml(self) -> str:
        """The resolved configuration as TOML; unset keys are left out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))
