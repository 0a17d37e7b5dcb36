"""The keys of a language model that is asked: the teacher, and the judge of held-out answers."""

import re
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["ENGINE_KEYS", "SELF", "SERVED", "EngineConfig", "JudgeConfig", "Section", "TeacherConfig"]

# What teacher.model says where the student is its own teacher.
SELF = "self"

# How the keys of most servers begin.
_KEY = re.compile(r"sk-|xai-|nvapi-|(gsk_|hf_|AIza)\w{20}")
# Engines that open a model themselves.
_ON_A_DEVICE = ("vllm", "transformers")
# Engines that ask a server, which has names of its own for its models.
SERVED = ("openai", "batch")

# Keys that only some engines know.
ENGINE_KEYS = {
    **dict.fromkeys(("api_key_env", "api_version", "base_url", "extra_body", "extra_headers"), SERVED),
    "dtype": _ON_A_DEVICE,
    "quantization": ("vllm",),
    "tensor_parallel_size": ("vllm",),
    "gpu_memory_utilization": ("vllm",),
    "max_model_len": ("vllm",),
}

# Headers that hold a key; and what any header may hold: a name, and a value in one line.
_SECRET = re.compile(r"authorization|cookie|key|token|secret|password", re.IGNORECASE)
_HEADER = re.compile(r"[\w!#$%&'*+.^`|~-]+: [ -~]*", re.ASCII)


class Section(BaseModel):
    """Keys that belong together; unknown ones are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may hold a key
    )

    @classmethod
    def sections(cls) -> "dict[str, type[Section]]":
        """Name of a section within -> its model, in the order of the file."""
        return {
            name: part
            for name, field in cls.model_fields.items()
            for part in (field.annotation, *get_args(field.annotation))
            if isinstance(part, type) and issubclass(part, Section)
        }


class EngineConfig(Section):
    """A language model that is asked, and by which engine."""

    section: ClassVar[str]  # the one that holds these keys, for messages

    engine: Literal["vllm", "openai", "batch", "transformers", "recorded"]
    """vLLM or transformers on this machine, an OpenAI-compatible server, or its Batch API."""
    model: str | None = None
    """Folder or hub name of a local model, or a server's name for it."""
    revision: str | None = None
    """Revision of a hub model; for a server any text that tells the model from others of its name."""
    base_url: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Address of the server, such as http://localhost:8000/v1, or of several; unset means OpenAI's own."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the server's key; unset sends none."""
    api_version: str | None = None
    """Azure's api-version, such as 2024-10-21; the key is then sent as Azure reads it."""
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
        return self.engine in SERVED

    @property
    def is_local(self) -> bool:
        """Whether a model of its own is opened, on this machine or on workers of a cluster."""
        return self.engine in _ON_A_DEVICE

    @property
    def is_cached(self) -> bool:
        """Whether answers are looked up in the cache; a recording's cost nothing that could be saved."""
        return self.cache != "off" and self.engine != "recorded"

    def takes_schemas(self, *, thinking: bool) -> bool:
        """Whether requests may carry a schema; a model on this machine that thinks first is held to none."""
        return not self.is_local or (self.engine == "vllm" and not thinking)

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

    @field_validator("base_url")
    @classmethod
    def _address_holds_no_key(cls, urls: str | list[str] | None) -> str | list[str] | None:
        for url in [urls] if isinstance(urls, str) else urls or ():
            _check_address(url)
        return urls

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and _KEY.match(name):
            raise ValueError("want the name of an environment variable, such as OPENAI_API_KEY, not the key")
        return name

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        if fault := next((fault for is_there, fault in self._faults() if is_there), None):
            raise ValueError(fault)
        return self

    def _faults(self) -> list[tuple[bool, str]]:
        """What does not fit together, and whether it is there."""
        is_recorded, is_priced = self.engine == "recorded", None not in (self.price_in, self.price_out)
        asked_elsewhere = sorted({"model", "messages", "stream", "n"} & self.extra_body.keys())
        is_split = self.engine == "batch" and isinstance(self.base_url, list) and len(self.base_url) > 1
        is_unnoted = (self.engine, self.cache) == ("batch", "off")
        headers = self.extra_headers.items()
        secret = next(filter(_SECRET.search, self.extra_headers), None)
        odd = next((name for name, value in headers if not _HEADER.fullmatch(f"{name}: {value}")), None)
        faults = [
            (not is_recorded and self.model is None, f'engine = "{self.engine}" needs model'),
            (is_unnoted, 'engine = "batch" keeps notes of its batches in the cache; unset cache'),
            (is_split, 'engine = "batch" has its batches at one server: give base_url one address'),
            (bool(asked_elsewhere), f"extra_body may not hold {', '.join(asked_elsewhere)}"),
            (
                secret is not None,
                f"extra_headers may not hold {secret}; a key's variable goes into api_key_env",
            ),
            (odd is not None, f"extra_headers: {odd!r} is no header of one line in ASCII"),
            (
                self.budget_usd is not None and not is_priced and self.prices is None,
                "budget_usd needs price_in and price_out, or prices",
            ),
        ]
        for key, engines in ENGINE_KEYS.items():
            is_foreign = self.engine not in engines and getattr(self, key) not in (None, "auto", {})
            faults.append((is_foreign, f"{key} is for engine {' or '.join(engines)} only; unset it"))
        return faults


def _check_address(url: str) -> None:
    """An address is stored and shown: what may be a key has no place in it."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("want http://... or https://...")
    parts = urlsplit(url)
    odd_query = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - {"api-version"}
    held = {"user name": "@" in parts.netloc, "query": odd_query, "fragment": parts.fragment}
    if what := next(filter(held.get, held), None):
        raise ValueError(f"it holds a {what}; name a key's variable in api_key_env")


class TeacherConfig(EngineConfig):
    """The language model that criticises each pair and proposes a better one."""

    section = "teacher"

    engine: Literal["vllm", "openai", "batch", "transformers", "recorded"]
    """vLLM or transformers on this machine, an OpenAI-compatible server, its Batch API, recorded answers."""
    model: str | None = None
    """Folder or hub name of a local model, or a server's name for it; self: the newest student itself."""
    path: str | None = None
    """File of recorded answers (engine recorded). Relative to this file."""
    prompts: str | None = None
    """TOML file of your own prompts; unset takes what `reflectune prompts` prints. Relative to this file."""
    candidates: int = Field(default=1, ge=1)
    """Proposals per pair and phase; the student takes the best."""
    structured: bool = True
    """Ask for JSON by schema where the engine grants it; false asks for tagged text, if `prompts` has it."""
    freeze_after: int | None = Field(default=None, ge=1)
    """Ask no more about a pair after so many rounds of refused proposals since its last accepted one."""

    def _faults(self) -> list[tuple[bool, str]]:
        is_recorded, is_student = self.engine == "recorded", self.model == SELF
        has_revision, is_greedy = self.revision is not None, not self.draws and not is_recorded
        return [
            (is_recorded and self.path is None, 'engine = "recorded" needs path, a file of recorded answers'),
            (is_student and self.is_served, 'model = "self" needs engine = "vllm" or "transformers"'),
            (is_greedy and self.candidates > 1, "candidates > 1 needs temperature > 0, or all are the same"),
            (is_student and has_revision, 'revision is the student\'s own where model = "self"; unset it'),
            (is_recorded and self.cache == "only", "a recording is asked without a cache; unset cache"),
            (
                is_recorded and bool(self.caps),
                "a recording costs nothing that could be counted; unset the budget",
            ),
            *super()._faults(),
        ]


class JudgeConfig(EngineConfig):
    """The language model that compares held-out answers of each new student with others."""

    section = "judge"

    engine: Literal["vllm", "openai", "batch", "transformers"]
    """vLLM or transformers on this machine, an OpenAI-compatible server, or its Batch API."""
    prompts: str | None = None
    """TOML file of your own criteria and words; unset takes those shipped. Relative to this file."""
    against: list[Literal["s0", "previous", "references"]] = Field(default=["s0"], min_length=1)
    """Whose answers: the base student's, those of the student measured before, the records' own."""

    def _faults(self) -> list[tuple[bool, str]]:
        return [(self.model == SELF, "a student is no judge of itself; name a model"), *super()._faults()]
