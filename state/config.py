"""The run configuration: one TOML file, one model, every field documented with its unit.

The docstring under a field is its documentation everywhere: `reflectune init` writes it as the
comment above the key. Loading resolves relative paths against the config file and refuses what it
does not know; it opens no model and reads no data.
"""

import difflib
import os
import reprlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from reflectune.state.errors import ConfigError
from reflectune.state.records import PolicyName, content_hash

__all__ = [
    "CHANGEABLE",
    "SELF",
    "DataConfig",
    "EvaluateConfig",
    "RefinetuneConfig",
    "RunConfig",
    "SelectionConfig",
    "StopConfig",
    "StudentConfig",
    "TeacherConfig",
    "change_config",
    "commented_config",
    "flatten",
    "load_config",
    "parse_config",
    "read_toml",
]

# The keys that may change while a run goes on: none of them alters what a stored row means.
CHANGEABLE = (
    "rounds",
    "teacher.budget_tokens",
    "teacher.budget_usd",
    "teacher.cache",
    "teacher.concurrency",
    "teacher.gpu_memory_utilization",
    "teacher.tensor_parallel_size",
    "teacher.timeout",
)

# What teacher.model says where the student is its own teacher.
SELF = "self"

# Keys that only some engines know.
_ENGINE_KEYS = {
    "dtype": ("vllm", "transformers"),
    "quantization": ("vllm",),
    "tensor_parallel_size": ("vllm",),
    "gpu_memory_utilization": ("vllm",),
    "max_model_len": ("vllm",),
}

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class DataConfig(_Section):
    """The instruction-tuning pairs to recycle: a file or a hub dataset."""

    path: str | None = None
    """File of pairs: JSON, JSONL, Parquet or CSV, told apart by content. Relative to this file."""
    hf: str | None = None
    """Name of a dataset on the Hugging Face hub, instead of `path`."""
    split: str = "train"
    """Split of the hub dataset."""
    format: Literal["auto", "alpaca", "messages", "sharegpt"] = "auto"
    """How a record holds its pair; auto looks at the fields."""
    limit: int | None = Field(default=None, ge=1)
    """Take only the first so many pairs."""
    holdout: StrictInt | StrictFloat = Field(default=0.05, ge=0)
    """Pairs kept apart for evaluation: a count (60) or a share (0.05). Whole instructions are held out."""
    skip_invalid: bool = False
    """Leave out records without an instruction or a response instead of refusing the data."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hf is None):
            raise ValueError("set exactly one of path and hf")
        if isinstance(self.holdout, float) and self.holdout >= 1:
            raise ValueError("a holdout share must be below 1; write a whole number for a count")
        return self


class TeacherConfig(_Section):
    """The language model that criticises each pair and proposes a better one."""

    engine: Literal["vllm", "openai", "transformers", "recorded"]
    """Where answers come from: vLLM or transformers on this machine, an OpenAI-compatible server, a file."""
    model: str | None = None
    """Folder or hub name of a local model, or a server's name for it; self: the newest student itself."""
    revision: str | None = None
    """Revision of a hub model; for a server any text that tells the model from others of its name."""
    base_url: str | None = None
    """Address of the server, such as http://localhost:8000/v1; unset means OpenAI's own."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the server's key; unset sends none."""
    path: str | None = None
    """File of recorded answers (engine recorded). Relative to this file."""
    prompts: str | None = None
    """TOML file of your own prompts; unset takes what `reflectune prompts` prints. Relative to this file."""
    candidates: int = Field(default=1, ge=1)
    """Proposals per pair and phase; the student takes the best."""
    temperature: float = Field(default=0.0, ge=0.0)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus sampling: share of the probability mass to draw from."""
    max_tokens: int = Field(default=2048, ge=1)
    """Longest answer, in tokens."""
    concurrency: int | None = Field(default=None, ge=1)
    """Most requests under way at once; unset takes 16, with vllm 256. A busy server gets fewer."""
    timeout: float = Field(default=600.0, gt=0.0, allow_inf_nan=False)
    """Most seconds for one answer of a server, at most 10 of them to connect."""
    retries: int = Field(default=2, ge=0)
    """How often a failed or unreadable answer is asked for again; a recording is never asked again."""
    structured: bool = True
    """Ask for JSON by schema where the engine grants it; false asks for tagged text, if `prompts` has it."""
    price_in: float | None = Field(default=None, ge=0.0)
    """Price of prompt tokens, USD per million; unset leaves the cost unknown."""
    price_out: float | None = Field(default=None, ge=0.0)
    """Price of completion tokens, USD per million; unset leaves the cost unknown."""
    budget_tokens: int | None = Field(default=None, ge=1)
    """Ask no more once the run's calls took so many tokens, prompts and answers; the round is finished."""
    budget_usd: float | None = Field(default=None, gt=0.0)
    """Ask no more once the run's calls cost so much; needs price_in and price_out."""
    patience: int | None = Field(default=None, ge=1)
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
    """Most tokens of a prompt and its answer that vLLM makes room for; unset takes the model's own."""

    @property
    def capacity(self) -> int:
        """Most requests under way at once."""
        return self.concurrency or (256 if self.engine == "vllm" else 16)

    @property
    def attempts(self) -> int:
        """Most calls for one proposal. A recording says the same again, so it is asked once."""
        return 1 if self.engine == "recorded" else 1 + self.retries

    @model_validator(mode="after")
    def _engine_has_what_it_needs(self) -> Self:
        if self.engine == "recorded":
            if self.path is None:
                raise ValueError('engine = "recorded" needs path, a file of recorded answers')
        else:
            if self.model is None:
                raise ValueError(f'engine = "{self.engine}" needs model')
            if self.model == SELF and self.engine == "openai":
                raise ValueError('model = "self" needs engine = "vllm" or "transformers"')
            if self.candidates > 1 and self.temperature == 0:
                raise ValueError("candidates > 1 needs temperature > 0, or every proposal is the same")
        return self

    @model_validator(mode="after")
    def _engine_knows_its_keys(self) -> Self:
        if self.model == SELF and self.revision is not None:
            raise ValueError('revision is the student\'s own where model = "self"; unset it')
        if self.engine == "recorded" and self.cache == "only":
            raise ValueError("a recording is asked without a cache; unset cache")
        for key, engines in _ENGINE_KEYS.items():
            if self.engine not in engines and getattr(self, key) not in (None, "auto"):
                raise ValueError(f"{key} is for engine {' or '.join(engines)} only; unset it")
        return self

    @model_validator(mode="after")
    def _budget_can_be_counted(self) -> Self:
        if self.engine == "recorded" and (self.budget_tokens is not None or self.budget_usd is not None):
            raise ValueError("a recording costs nothing that could be counted; unset the budget")
        if self.budget_usd is not None and (self.price_in is None or self.price_out is None):
            raise ValueError("budget_usd needs price_in and price_out")
        return self


class StudentConfig(_Section):
    """The language model that is trained, and that scores every proposal."""

    model: str
    """Folder or hub name of the base model. A folder is relative to this file."""
    revision: str | None = None
    """Revision of a hub model."""
    template: str = "chat"
    """Prompts it is trained and scored with: chat (its own chat template), plain, or a TOML file."""
    max_length: int = Field(default=2048, ge=8)
    """Most tokens of prompt and target together; a longer target is cut at its end."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format; auto takes the model's own, on a CPU float32 unless that is bfloat16 and faster."""
    device: str = "auto"
    """torch device; auto takes cuda, then mps, then cpu."""
    batch_tokens: int = Field(default=2048, ge=8)
    """Most tokens in one forward pass; scoring halves it where memory runs out. On a CPU 1024 at most."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; unset takes the number that a short measurement finds fastest. A run keeps it."""


class SelectionConfig(_Section):
    """Which proposals the student takes, and which pairs it trains on."""

    policy: PolicyName = "ifd+r-ifd"
    """Rule of both phases; ifd+r-ifd is the method, the others are control arms."""
    margin: float = Field(default=0.0, ge=0.0)
    """A proposal must be better by more than this, in the policy's unit."""
    max_ifd: float = Field(default=1.0, gt=0.0)
    """Train only on pairs with an IFD below this."""
    ifd_cap: float | None = Field(default=None, gt=0.0)
    """Where the highest IFD wins, pairs below this beat all others, whatever the margin; unset: no cap."""
    max_r_ifd: float = Field(default=1.0, gt=0.0)
    """Train only on pairs with a reversed IFD below this."""
    keep: Literal["improved", "all"] = "improved"
    """Train on pairs whose response was improved in some round, or on all."""
    top_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    """Then train on this share only, hardest (highest IFD) first."""
    random_rate: Share = 0.5
    """Share of proposals that policy random takes."""


class RefinetuneConfig(_Section):
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
    """Compute each layer again in the backward pass: a third more time for much less memory."""
    load_in_4bit: bool = False
    """Train on 4-bit (NF4) base weights; needs CUDA and bitsandbytes. Scoring keeps student.dtype."""
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


class EvaluateConfig(_Section):
    """Held-out measures of each new student."""

    every: int = Field(default=1, ge=1)
    """Evaluate every so many rounds, and after the last."""
    checker: str | None = None
    """module:function(instruction, input, response, reference): is an answer right? None: nobody can say."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest held-out answer the student may write, in tokens."""
    frozen: int = Field(default=1000, ge=0)
    """Training pairs that the untrained student scores each round, always these, so that rounds compare."""


class StopConfig(_Section):
    """When to stop before the last round. A round that accepts nothing always ends the run."""

    patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations in a row without a better held-out measure."""
    min_acceptance: Share = 0.0
    """Stop when a round accepts a smaller share of its proposals than this."""
    max_drop: float | None = Field(default=None, ge=0.0)
    """Stop when the held-out measure is worse than its best by more than this, relative to the best."""


class RunConfig(_Section):
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

    @model_validator(mode="after")
    def _stopping_has_a_measure(self) -> Self:
        if self.data.holdout == 0 and (self.stop.patience or self.stop.max_drop is not None):
            raise ValueError("stop.patience and stop.max_drop need held-out pairs; set data.holdout")
        return self

    def content_hash(self) -> str:
        """Hash of the resolved configuration."""
        return content_hash(self.model_dump(mode="json"))

    def to_toml(self) -> str:
        """The resolved configuration as TOML; unset keys are left out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, override and check a config file.

    Args:
        path: the TOML file; relative paths in it are relative to its folder.
        overrides: "section.key=value" strings; a value is read as TOML, else as a plain string. A
            relative path given here is relative to the working directory.

    Raises:
        ConfigError: file missing or not TOML, unknown key, impossible value.
    """
    try:
        values = read_toml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file; `reflectune init {path}` writes one") from None
    _resolve_paths(values, path.parent)
    changed: dict[str, Any] = {}
    for override in overrides:
        _assign(changed, override)
    _resolve_paths(changed, Path())
    _merge(values, changed)
    return parse_config(values, source=str(path))


def change_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The config of a run that has begun with some keys changed; the value `unset` unsets a key.

    Raises:
        ConfigError: a key that a run keeps from its beginning, or an impossible value.
    """
    changed: dict[str, Any] = {}
    for override in overrides:
        key, _, value = (part.strip() for part in override.partition("="))
        if key not in CHANGEABLE:
            raise ConfigError(
                f"--set {key}: a run that has begun keeps it; what may change: {', '.join(CHANGEABLE)}"
            )
        if key == "teacher.cache" and value.strip("'\"") == "only":
            raise ConfigError("--set teacher.cache=only: a run that has begun goes on asking; want on or off")
        _assign(changed, override)
        if value == "unset" and key not in ("rounds", "teacher.cache", "teacher.timeout"):
            changed["teacher"][key.removeprefix("teacher.")] = None
    values = config.model_dump(mode="json")
    _merge(values, changed)
    return parse_config(values, source="--set")


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds. A byte order mark, which some editors write, is no part of it.

    Raises:
        FileNotFoundError: no such file.
        ConfigError: the file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"{path}: cannot be read: nested too deeply") from None


def parse_config(values: Mapping[str, Any], source: str) -> RunConfig:
    """Check values already read; `source` names them in messages.

    Raises:
        ConfigError: unknown key (with the nearest known one) or impossible value.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(detail) for detail in error.errors())
        raise ConfigError(f"{source}: {problems}") from None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def commented_config() -> str:
    """A config file with every key, its default and its documentation as a comment.

    Keys that must be filled in or chosen carry an example; keys unset by default are commented out.
    """
    examples = {
        ("name",): "my-run",
        ("data", "path"): "data.json",
        ("teacher", "engine"): "openai",
        ("teacher", "model"): "my-teacher",
        ("teacher", "base_url"): "http://localhost:8000/v1",
        ("student", "model"): "path/to/student",
    }
    lines = ["# Reflectune run: edit, then `reflectune run` this file."]
    sections: list[tuple[str, type[BaseModel]]] = []
    for key, field in RunConfig.model_fields.items():
        section = _section_of(field)
        if section is None:
            lines += _commented_key((key,), field, examples)
        else:
            sections.append((key, section))
    for key, section in sections:
        lines += ["", f"# {section.__doc__}", f"[{key}]"]
        for name, field in section.model_fields.items():
            lines += _commented_key((key, name), field, examples)
    return "\n".join(lines) + "\n"


def _commented_key(
    key: tuple[str, ...], field: FieldInfo, examples: Mapping[tuple[str, ...], str]
) -> list[str]:
    default = None if field.default is PydanticUndefined else field.default
    value = examples.get(key, default)
    choices = _choices(field)
    comment = f"# {field.description}" + (f" One of: {', '.join(choices)}." if choices else "")
    if value is None:
        return [comment, f"# {key[-1]} = (unset)"]
    return [comment, tomli_w.dumps({key[-1]: value}).strip()]


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _choices(field: FieldInfo) -> list[str]:
    return [choice for choice in get_args(field.annotation) if isinstance(choice, str)]


def _assign(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: want section.key=value, such as refinetune.lr=1e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    target = values
    for key in keys[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override}: {key} is not a section")
    target[keys[-1]] = value


def _merge(values: dict[str, Any], changed: Mapping[str, Any]) -> None:
    for key, value in changed.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Make the paths in raw values absolute. A model or template that is no path stays a name."""

    def resolve(section: str, key: str, *, only_if_it_exists: bool) -> None:
        table = values.get(section)
        if not isinstance(table, dict) or not isinstance(text := table.get(key), str) or not text:
            return
        path = Path(os.path.abspath(folder / Path(text).expanduser()))
        if not only_if_it_exists or path.exists() or text.startswith((".", "~")):
            table[key] = str(path)

    resolve("data", "path", only_if_it_exists=False)
    resolve("teacher", "path", only_if_it_exists=False)
    resolve("teacher", "prompts", only_if_it_exists=False)
    if not (isinstance(values.get("teacher"), dict) and values["teacher"].get("model") == SELF):
        resolve("teacher", "model", only_if_it_exists=True)
    resolve("student", "model", only_if_it_exists=True)
    if not (
        isinstance(values.get("student"), dict) and values["student"].get("template") in ("chat", "plain")
    ):
        resolve("student", "template", only_if_it_exists=False)


def _explain(detail: ErrorDetails) -> str:
    location = [str(part) for part in detail["loc"]]
    where = ".".join(location)
    match detail["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key{_nearest(location)}"
        case "missing":
            return f"{where}: missing"
        case "value_error":
            message = detail["msg"].removeprefix("Value error, ")
            return f"{where}: {message}" if where else message
        case _:
            got = reprlib.repr(detail["input"])
            return f"{where}: {detail['msg'][:1].lower()}{detail['msg'][1:]}, got {got}"


def _nearest(location: list[str]) -> str:
    section: type[BaseModel] = RunConfig
    for part in location[:-1]:
        section = _section_of(section.model_fields[part]) or section
    near = difflib.get_close_matches(location[-1], section.model_fields, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    elsewhere = [
        f"{key}.{location[-1]}"
        for key, field in RunConfig.model_fields.items()
        if (known := _section_of(field)) is not None and location[-1] in known.model_fields
    ]
    return (
        f"; did you mean {elsewhere[0]}?" if elsewhere else f"; known here: {', '.join(section.model_fields)}"
    )
