"""The keys of a run's configuration: one pydantic model, every field documented with its unit.

The docstring under a field is its documentation everywhere: `reflectune init` writes it as the comment above
the key, and the table of keys is made from it.
"""

import datetime
import difflib
import re
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, field_validator, model_validator

from reflectune.state.policies import POLICIES, is_own
from reflectune.state.records import Column, DataFormat, OddKind, Turns, content_hash

__all__ = [
    "SELF", "Column", "DataConfig", "OddKind", "RefinetuneConfig", "RunConfig", "Section",
    "SelectionConfig", "StudentConfig", "TeacherConfig",
]  # fmt: skip

# What teacher.model says where the student is its own teacher.
SELF = "self"

# Engines that open a model themselves.
_ON_A_DEVICE = ("vllm", "transformers")

# Keys that only some engines know.
_ENGINE_KEYS = {
    "dtype": _ON_A_DEVICE,
    "quantization": ("vllm",),
    "tensor_parallel_size": ("vllm",),
    "gpu_memory_utilization": ("vllm",),
    "max_model_len": ("vllm",),
}

# Headers that hold a key; and what any header may hold: a name, and a value in one line.
_SECRET = re.compile(r"authorization|cookie|key|token|secret|password", re.IGNORECASE)
_HEADER = re.compile(r"[\w!#$%&'*+.^`|~-]+: [ -~]*", re.ASCII)

# A function of the user's own.
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Keys that belong together; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


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
        if (self.path is None) == (self.hf is None):
            raise ValueError("set exactly one of path and hf")
        if self.subset is not None and self.hf is None:
            raise ValueError("subset is for hf only; unset it")
        if isinstance(self.holdout, float) and self.holdout >= 1:
            raise ValueError("a holdout share must be below 1; write a whole number for a count")
        return self


class TeacherConfig(Section):
    """The language model that criticises each pair and proposes a better one."""

    engine: Literal["vllm", "openai", "batch", "transformers", "recorded"]
    """vLLM or transformers on this machine, an OpenAI-compatible server, its Batch API, recorded answers."""
    model: str | None = None
    """Folder or hub name of a local model, or a server's name for it; self: the newest student itself."""
    revision: str | None = None
    """Revision of a hub model; for a server any text that tells the model from others of its name."""
    base_url: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Address of the server, such as http://localhost:8000/v1, or of several; unset means OpenAI's own."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the server's key; unset sends none."""
    api_version: str | None = None
    """Azure's api-version, such as 2024-10-21; the key is then sent as Azure reads it."""
    path: str | None = None
    """File of recorded answers (engine recorded). Relative to this file."""
    prompts: str | None = None
    """TOML file of your own prompts; unset takes what `reflectune prompts` prints. Relative to this file."""
    candidates: int = Field(default=1, ge=1)
    """Proposals per pair and phase; the student takes the best."""
    temperature: float | None = Field(default=None, ge=0.0)
    """Sampling temperature; 0 is greedy. Unset: greedy on this machine, a server's own default."""
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    """Nucleus sampling: share of the probability mass to draw from. Unset: 1, or a server's own default."""
    send_seed: bool = False
    """Send a server each request's seed; some draw the same again by it, many refuse it."""
    extra_body: dict[str, Any] = {}
    """More for the body of a server's requests, such as {reasoning_effort = "low"}."""
    extra_headers: dict[str, str] = {}
    """More headers for a server's requests, such as {X-Title = "mine"}. They are stored: no keys."""
    max_tokens: int = Field(default=2048, ge=1)
    """Longest answer, in tokens."""
    concurrency: int | None = Field(default=None, ge=1)
    """Most requests under way at once, at all servers together; unset takes 16, vllm 256, batch 50000."""
    timeout: float = Field(default=600.0, gt=0.0, allow_inf_nan=False)
    """Most seconds for one answer of a server, at most 10 of them to connect."""
    wait: float = Field(default=600.0, ge=0.0, allow_inf_nan=False)
    """Most seconds to wait for a server that is busy or loads its model, since it last took a request."""
    retries: int = Field(default=2, ge=0)
    """How often a failed or unreadable answer is asked for again; a recording is never asked again."""
    structured: bool = True
    """Ask for JSON by schema where the engine grants it; false asks for tagged text, if `prompts` has it."""
    price_in: float | None = Field(default=None, ge=0.0)
    """Price of prompt tokens, USD per million; unset leaves the cost unknown."""
    price_out: float | None = Field(default=None, ge=0.0)
    """Price of completion tokens, USD per million; unset leaves the cost unknown."""
    prices: str | None = None
    """TOML file of prices by model, for where price_in or price_out is unset. Relative to this file."""
    budget_tokens: int | None = Field(default=None, ge=1)
    """Ask no more once the run's calls took so many tokens, prompts and answers; the round is finished."""
    budget_usd: float | None = Field(default=None, gt=0.0)
    """Ask no more once the run's calls cost so much; needs price_in and price_out, or prices."""
    freeze_after: int | None = Field(default=None, ge=1)
    """Ask no more about a pair after so many rounds of refused proposals since its last accepted one."""
    cache: Literal["on", "off", "only"] = "on"
    """Keep answers in the runs folder's cache.db and take them from there; only: ask nobody else."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of a local model; auto takes its own, and the student's for model = "self"."""
    quantization: str | None = None
    """vLLM's name of a way to quantise the model, such as fp8; unset takes what its config.json says."""
    tensor_parallel_size: int | None = Field(default=None, ge=1)
    """GPUs that vLLM spreads the model over; unset takes one."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of the device's memory that vLLM takes; unset takes vLLM's default."""
    max_model_len: int | None = Field(default=None, ge=8)
    """Most tokens of a prompt and its answer that vLLM makes room for; unset takes what fits into memory."""

    @property
    def capacity(self) -> int:
        """Most requests under way at once."""
        return self.concurrency or {"vllm": 256, "batch": 50_000}.get(self.engine, 16)

    @property
    def is_served(self) -> bool:
        """Whether a server answers."""
        return self.engine in ("openai", "batch")

    @property
    def sampling(self) -> tuple[float, float]:
        """Temperature and top_p of a model on this machine."""
        return self.temperature or 0.0, 1.0 if self.top_p is None else self.top_p

    @property
    def draws(self) -> bool:
        """Whether answers are drawn, as far as is known: a server's own default may be to draw."""
        is_unknown = self.is_served and self.temperature is None
        return is_unknown or bool(self.temperature)

    @property
    def caps(self) -> list[str]:
        """The keys of its budget that are set."""
        return [key for key in ("budget_tokens", "budget_usd") if getattr(self, key) is not None]

    @property
    def attempts(self) -> int:
        """Most calls for one proposal. A recording says the same again, so it is asked once."""
        return 1 if self.engine == "recorded" else 1 + self.retries

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        is_recorded, is_student, is_capped = self.engine == "recorded", self.model == SELF, bool(self.caps)
        is_priced = None not in (self.price_in, self.price_out) or self.prices is not None
        has_revision, is_unnoted = self.revision is not None, (self.engine, self.cache) == ("batch", "off")
        is_greedy = not self.draws and not is_recorded
        asked_elsewhere = sorted({"model", "messages", "stream", "n"} & self.extra_body.keys())
        is_split = self.engine == "batch" and isinstance(self.base_url, list) and len(self.base_url) > 1
        headers = self.extra_headers.items()
        secret = next(filter(_SECRET.search, self.extra_headers), None)
        odd = next((name for name, value in headers if not _HEADER.fullmatch(f"{name}: {value}")), None)
        faults = [
            (is_recorded and self.path is None, 'engine = "recorded" needs path, a file of recorded answers'),
            (not is_recorded and self.model is None, f'engine = "{self.engine}" needs model'),
            (is_student and self.is_served, 'model = "self" needs engine = "vllm" or "transformers"'),
            (is_greedy and self.candidates > 1, "candidates > 1 needs temperature > 0, or all are the same"),
            (is_student and has_revision, 'revision is the student\'s own where model = "self"; unset it'),
            (is_recorded and self.cache == "only", "a recording is asked without a cache; unset cache"),
            (is_unnoted, 'engine = "batch" keeps notes of its batches in the cache; unset cache'),
            (is_recorded and is_capped, "a recording costs nothing that could be counted; unset the budget"),
            (is_split, 'engine = "batch" has its batches at one server: give base_url one address'),
            (bool(asked_elsewhere), f"extra_body may not hold {', '.join(asked_elsewhere)}"),
            (
                secret is not None,
                f"extra_headers may not hold {secret}; a key's variable goes into api_key_env",
            ),
            (odd is not None, f"extra_headers: {odd!r} is no header of one line in ASCII"),
            (
                self.budget_usd is not None and not is_priced,
                "budget_usd needs price_in and price_out, or prices",
            ),
        ]
        for key, engines in _ENGINE_KEYS.items():
            is_foreign = self.engine not in engines and getattr(self, key) not in (None, "auto")
            faults.append((is_foreign, f"{key} is for engine {' or '.join(engines)} only; unset it"))
        for is_there, fault in faults:
            if is_there:
                raise ValueError(fault)
        return self


class StudentConfig(Section):
    """The language model that is trained, and that scores every proposal."""

    model: str
    """Folder or hub name of the base model. A folder is relative to this file."""
    revision: str | None = None
    """Revision of a hub model."""
    template: str = "chat"
    """Prompts it is trained and scored with: chat (its own chat template), plain, or a TOML file."""
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
    """Rule of both phases: a name of the README's table, or module:function of your own."""
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
    random_rate: Share = 0.5
    """Share of proposals that policy random takes."""

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


class StopConfig(Section):
    """When to stop before the last round. A round that accepts nothing always ends the run."""

    patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations in a row without a better held-out measure."""
    min_acceptance: Share = 0.0
    """Stop when a round accepts a smaller share of its proposals than this."""
    max_drop: float | None = Field(default=None, ge=0.0)
    """Stop when the held-out measure is worse than its best by more than this, relative to the best."""
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
    stop: StopConfig = StopConfig()
    scale: ScaleConfig = ScaleConfig()

    @model_validator(mode="after")
    def _stopping_has_a_measure(self) -> Self:
        if self.data.holdout == 0 and (self.stop.patience or self.stop.max_drop is not None):
            raise ValueError("stop.patience and stop.max_drop need held-out pairs; set data.holdout")
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
    def _overlap_has_two_devices(self) -> Self:
        if self.scale.engine == "ray" and is_own(self.selection.policy):
            raise ValueError(
                f"selection.policy = {self.selection.policy}: your own function is not sent to a cluster: "
                'set scale.engine = "local"'
            )
        if self.scale.overlap and self.teacher.engine == "batch":
            raise ValueError('scale.overlap: engine "batch" answers whole phases only; unset it')
        if self.scale.overlap and self.teacher.engine in _ON_A_DEVICE and self.scale.engine != "ray":
            raise ValueError(
                f'scale.overlap: engine "{self.teacher.engine}" takes the device of the student; set '
                'scale.engine = "ray", or ask a server'
            )
        return self

    @classmethod
    def sections(cls) -> dict[str, type[Section]]:
        """Name of a section -> its model, in the order of the file."""
        return {
            name: field.annotation
            for name, field in cls.model_fields.items()
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        }

    def content_hash(self) -> str:
        """Hash of the resolved configuration."""
        return content_hash(self.model_dump(mode="json"))

    def to_toml(self) -> str:
        """The resolved configuration as TOML; unset keys are left out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))
