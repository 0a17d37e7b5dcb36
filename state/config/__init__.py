"""The run configuration: one TOML file, one model; paths made absolute, keys overridden, the unknown refused.

The keys are in `sections`, their documentation in `reference`. Nothing here opens a model or reads data.
"""

import difflib
import os
import reprlib
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from reflectune.state.config.engines import ENGINE_KEYS, SERVED
from reflectune.state.config.sections import (
    SELF,
    AlarmsConfig,
    Column,
    DataConfig,
    EngineConfig,
    JudgeConfig,
    OddKind,
    RefinetuneConfig,
    RunConfig,
    ScaleConfig,
    Section,
    SelectionConfig,
    StudentConfig,
    TeacherConfig,
    TrackConfig,
)
from reflectune.state.errors import ConfigError

__all__ = [
    "CHANGEABLE", "SELF", "TEMPLATES", "AlarmsConfig", "Column", "DataConfig", "EngineConfig", "JudgeConfig",
    "OddKind", "RefinetuneConfig", "RunConfig", "ScaleConfig", "SelectionConfig", "StudentConfig",
    "TeacherConfig", "TrackConfig", "assign", "change_config", "flatten", "load_begun_config", "load_config",
    "overlay", "parse_config", "parse_model", "read_toml", "read_values", "resolve_paths", "set_key", "tidy",
    "upgrade_config", "without_unset",
]  # fmt: skip

# Keys of a model that is asked that say how, and not what: those of teacher and judge.
_ASKING = (
    "api_key_env", "api_version", "base_url", "budget_tokens", "budget_usd", "cache", "concurrency",
    "extra_body", "extra_headers", "gpu_memory_utilization", "max_model_len", "max_tokens",
    "price_in", "price_out", "prices", "retries", "tensor_parallel_size", "timeout", "wait",
)  # fmt: skip
# The keys that may change while a run goes on: none of them alters what a stored row means.
CHANGEABLE = (
    "rounds",
    *(f"alarms.{name}" for name in AlarmsConfig.model_fields),
    "publish.language",
    "publish.license",
    "publish.sources",
    "refinetune.gradient_checkpointing",
    "scale.address",
    "scale.engine",
    "scale.gpus_per_student",
    "scale.gpus_per_teacher",
    "scale.overlap",
    "scale.students",
    "scale.teachers",
    "scale.trainers",
    "student.batch_tokens",
    "student.device",
    "student.threads",
    "stop.max_failures",
    "stop.rollback",
    "track.project",
    "track.to",
    "teacher.structured",
    *(f"{section}.{name}" for section in ("teacher", "judge") for name in _ASKING),
)

# Keys of earlier versions, and what they are called now.
_RENAMED = {
    "data.skip_invalid": "data.odd.invalid",
    "evaluate.frozen": "evaluate.base_samples",
    "refinetune.load_in_4bit": "student.load_in_4bit",
    "selection.max_ifd": "selection.train_max_ifd",
    "selection.max_r_ifd": "selection.train_max_r_ifd",
    "teacher.patience": "teacher.freeze_after",
}

# Keys that earlier versions lacked and did not go by the default of: a run that they began asks and measures
# alike in all its rounds.
_ADDED: dict[str, Any] = {"evaluate.answers": 2**31 - 1, "teacher.send_seed": True}

# The templates that are shipped; "chat" is the one of the student's tokenizer.
TEMPLATES = ("chat", "plain", "vicuna")

# Where the package has files that configs name. It may have been installed elsewhere when a run began.
_PACKAGE, _WITHIN = Path(__file__).parents[2], ("/loop/demo/", "/loop/experiments/")

# Keys that name a file, and keys that name a folder or else something on the hub; values that name neither.
_FILES = (
    "data.path",
    "teacher.path",
    "teacher.prompts",
    "teacher.prices",
    "judge.prompts",
    "judge.prices",
    "student.template",
)
_ON_HUB = ("data.hf", "teacher.model", "judge.model", "student.model")
_OF_SERVERS = ("teacher.model", "judge.model")
_UNSET = "unset"  # a value that leaves its key, or one of a table, to its default
_NO_PATHS = {"teacher.model": (SELF,), "student.template": TEMPLATES}

_Model = TypeVar("_Model", bound=Section)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, override and check a config file.

    An override is "section.key=value"; a value is read as TOML, else as a plain string. It leaves a table's
    other keys as they are. The value `unset` puts a key back to its default. Relative paths are relative to
    the file's folder, in overrides to the working directory.

    Raises:
        ConfigError: file missing or not TOML, unknown key, impossible value.
    """
    changed: dict[str, Any] = {}
    for override in overrides:
        assign(changed, override)
    return parse_config(without_unset(read_values(path, (changed, Path()))), source=str(path))


def overlay(values: dict[str, Any], changed: Mapping[str, Any]) -> None:
    """Change raw values by others; a table keeps the keys that are not changed."""
    for key, value in flatten(changed).items():
        section, dot, _ = key.partition(".")
        if dot and values.get(section) == _UNSET:
            values[section] = {}
        before = _get_key(values, key)
        is_table = isinstance(before, dict) and isinstance(value, dict)
        set_key(values, key, before | value if is_table else value)


def load_begun_config(path: Path) -> RunConfig:
    """Read the config.toml of a run that has begun, whichever version wrote it."""
    values = read_values(path)
    if _get_key(values, "refinetune.load_in_4bit") is True:
        raise ConfigError(
            f"{path}: the run was begun by a version that trained on 4-bit weights and scored on whole ones; "
            "go on with that version, or start another run with student.load_in_4bit"
        )
    return parse_config(upgrade_config(values), source=str(path))


def upgrade_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier version stored, with the names of today, and the package's files where they are."""
    upgraded: dict[str, Any] = {}
    for key, value in (_ADDED | flatten(values)).items():
        if key != "data.skip_invalid":
            set_key(upgraded, _RENAMED.get(key, key), value)
        elif value:
            set_key(upgraded, _RENAMED[key], "skip")
    if (checker := _get_key(upgraded, "evaluate.checker")) == "loop.demo.world:check":
        set_key(upgraded, "evaluate.checker", f"reflectune.{checker}")
    tidy(upgraded)
    return upgraded


def tidy(values: dict[str, Any]) -> None:
    """Leave out keys of servers that no engine read, and name the package's own files where they are now."""
    for section in ("teacher", "judge"):
        if isinstance(asked := values.get(section), dict) and asked.get("engine") not in SERVED:
            unread = [key for key in asked if asked[key] and ENGINE_KEYS.get(key) == SERVED]
            values[section] = {key: asked[key] for key in asked if key not in unread}
    for key in ("teacher.model", "teacher.path", "teacher.prompts", "student.model", "student.template"):
        text = _get_key(values, key)
        if not isinstance(text, str) or os.path.exists(text):
            continue
        for place in _WITHIN:
            if place in text and os.path.exists(path := str(_PACKAGE) + place + text.rpartition(place)[2]):
                set_key(values, key, path)


def change_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The config of a run that has begun with some keys changed; `unset` puts one back to its default.

    Relative paths are relative to the working directory.

    Raises:
        ConfigError: a key that a run keeps from its beginning, or an impossible value.
    """
    values = config.model_dump(mode="json")
    for override in overrides:
        key, _, value = (part.strip() for part in override.partition("="))
        if ".".join(key.split(".")[:2]) not in CHANGEABLE:
            raise ConfigError(
                f"--set {key}: a run that has begun keeps it; what may change: {', '.join(CHANGEABLE)}"
            )
        section, _, name = key.partition(".")
        if name == "cache" and value.strip("'\"") == "only":
            raise ConfigError(f"--set {key}=only: a run that has begun goes on asking; want on or off")
        if name and values[section] is None:
            raise ConfigError(f"--set {key}: the run has no [{section}]")
        changed: dict[str, Any] = {}
        assign(changed, override)
        resolve_paths(changed, Path(), values)
        overlay(values, changed)
    return parse_config(without_unset(values), source="--set")


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
    """Check values already read; a ConfigError, beginning with `source`, where they cannot be."""
    return parse_model(RunConfig, values, source)


def without_unset(values: Mapping[str, Any], model: type[Section] | None = RunConfig) -> dict[str, Any]:
    """Raw values as somebody writes them without keys that are "unset": these take their defaults.

    What `model` does not know stays, to be refused; in a table, without a model, every key is known.
    """
    kept = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and model is not None:
            kept[key] = without_unset(value, model.sections().get(key))
        elif value != _UNSET or (model is not None and key not in model.model_fields):
            kept[key] = value
    return kept


def parse_model(model: type[_Model], values: Mapping[str, Any], source: str) -> _Model:
    """The same for any model of keys."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(detail, model) for detail in error.errors())
        raise ConfigError(f"{source}: {problems}") from None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections as dotted keys; a table within a section is one value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        is_section = isinstance(value, Mapping) and not prefix
        flat |= flatten(value, f"{key}.") if is_section else {prefix + key: value}
    return flat


def _get_key(values: Mapping[str, Any], dotted: str) -> Any:
    section, _, name = dotted.partition(".")
    table = values.get(section)
    return table.get(name) if isinstance(table, Mapping) else None


def set_key(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a dotted key of nested sections."""
    *sections, name = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{dotted}: {section} is not a section")
    values[name] = value


def assign(values: dict[str, Any], override: str) -> None:
    """Set what "section.key=value" says, the value read as TOML or else as text; ConfigError for others."""
    dotted, equals, text = override.partition("=")
    if not equals or not all(dotted.strip().split(".")):
        raise ConfigError(f"--set {override}: want section.key=value, such as refinetune.lr=1e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    set_key(values, dotted.strip(), value)


def resolve_paths(values: dict[str, Any], folder: Path, whole: Mapping[str, Any]) -> None:
    """Make the paths in raw values absolute. What is on the hub stays a name.

    So does the name that a server has for its model, whatever folder is called the same; `whole` are all
    values that these become part of, and say which engine asks.
    """
    for key in (*_FILES, *_ON_HUB):
        text, engine = _get_key(values, key), f"{key.partition('.')[0]}.engine"
        if not isinstance(text, str) or text in ("", _UNSET, *_NO_PATHS.get(key, ())):
            continue
        if key in _OF_SERVERS and _get_key(whole, engine) in SERVED:
            continue
        path = os.path.abspath(folder / os.path.expanduser(text))
        if key in _FILES or os.path.exists(path) or text.startswith((".", "~")):
            set_key(values, key, path)


def read_values(path: Path, *changes: tuple[Mapping[str, Any], Path]) -> dict[str, Any]:
    """The values of a config file, unchecked, changed by others in turn, with absolute paths.

    Args:
        path: the file, which its own paths are relative to.
        changes: raw values, and the folder that paths in them are relative to.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    try:
        values = read_toml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file; `reflectune init {path}` writes one") from None
    parts = [(values, path.parent), *((deepcopy(dict(changed)), folder) for changed, folder in changes)]
    whole: dict[str, Any] = {}
    for part, _ in parts:
        overlay(whole, part)
    for part, folder in parts:
        resolve_paths(part, folder, whole)
    for part, _ in parts[1:]:
        overlay(values, part)
    return values


def _explain(detail: ErrorDetails, model: type[Section]) -> str:
    location = [str(part) for part in detail["loc"]]
    where = ".".join(location)
    match detail["type"]:
        case "extra_forbidden" if where == "data.skip_invalid":
            return f'{where} is now {_RENAMED[where]} = "skip"'
        case "extra_forbidden" if where in _RENAMED:
            return f"{where} is now {_RENAMED[where]}"
        case "extra_forbidden":
            return f"{where}: unknown key{_nearest(location, model)}"
        case "missing":
            return f"{where}: missing"
        case "value_error":
            message = str(detail["ctx"]["error"])  # without pydantic's own words before it
            return f"{where}: {message}" if where else message
        case _:
            got = reprlib.repr(detail["input"])
            return f"{where}: {detail['msg'][:1].lower()}{detail['msg'][1:]}, got {got}"


def _nearest(location: list[str], model: type[Section]) -> str:
    sections, key = model.sections(), location[-1]
    section = model if len(location) == 1 else sections[location[0]]
    near = difflib.get_close_matches(key, section.model_fields, n=1, cutoff=0.6)
    near += [f"{name}.{key}" for name, known in sections.items() if key in known.model_fields]
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(section.model_fields)}"
