"""Every key with its documentation: what `reflectune init` writes, and what the table of keys shows."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import tomli_w

from reflectune.state.config.sections import RunConfig
from reflectune.state.records import Recipe

__all__ = ["ConfigKey", "commented_config", "list_keys", "read_recipe"]

_TYPES = {
    str: "string", int: "integer", float: "float", bool: "boolean", datetime.date: "date",
    dict: "table",
}  # fmt: skip
_EXAMPLES = {
    "name": "my-run",
    "data.path": "data.json",
    "teacher.engine": "openai",
    "teacher.model": "my-teacher",
    "teacher.base_url": "http://localhost:8000/v1",
    "student.model": "path/to/student",
    "judge.engine": "openai",
    "judge.model": "my-judge",
}


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """One key as its field documents it."""

    key: str  # with its section: "refinetune.lr"
    type: str  # in TOML's words; several are parted by " or "
    default: Any  # None: unset
    doc: str
    choices: tuple[str, ...] = ()  # the only values, where they are listed
    is_required: bool = False


def list_keys() -> Iterator[ConfigKey]:
    """Every key, in the order of a config file: those outside of sections first."""
    sections = RunConfig.sections()
    fields = {name: field for name, field in RunConfig.model_fields.items() if name not in sections}
    for section, model in sections.items():
        fields |= {f"{section}.{name}": field for name, field in model.model_fields.items()}
    for key, field in fields.items():
        is_choice = get_origin(field.annotation) is Literal
        yield ConfigKey(
            key=key,
            type=_name_type(field.annotation),
            default=None if field.is_required() else field.default,
            doc=field.description or "",
            choices=get_args(field.annotation) if is_choice else (),
            is_required=field.is_required(),
        )


def commented_config() -> str:
    """A config file with every key, its default and its documentation as a comment.

    Keys that must be filled in or chosen carry an example; keys unset by default are commented out, and so
    is all of a section that need not be there.
    """
    lines = ["# Reflectune run: edit, then `reflectune run` this file."]
    sections = RunConfig.sections()
    begun = mark = ""
    for item in list_keys():
        section, _, name = item.key.rpartition(".")
        if section != begun:
            begun, mark = section, "# " if RunConfig.model_fields[section].default is None else ""
            lines += ["", f"# {sections[section].__doc__}", f"{mark}[{section}]"]
        choices = f" One of: {', '.join(item.choices)}." if item.choices else ""
        value = _EXAMPLES.get(item.key, item.default)
        lines.append(f"# {item.doc}{choices}")
        if value is None:
            lines.append(f"# {name} = (unset)")
        else:
            text = tomli_w.dumps({name: value}).strip() if value != {} else f"{name} = {{}}"
            lines += [mark + line for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def read_recipe(name: Recipe) -> str:
    """A config file for one known setting, with what it costs as comments."""
    return (Path(__file__).parent / "recipes" / f"{name}.toml").read_text(encoding="utf-8")


def _name_type(annotation: Any) -> str:
    """A Python type in TOML's words."""
    if (known := get_origin(annotation) if get_origin(annotation) is dict else annotation) in _TYPES:
        return _TYPES[known]
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return "string"
    if get_origin(annotation) is list:
        return f"array of {_name_type(parts[0])}s"
    if get_origin(annotation) is Annotated:
        return _name_type(parts[0])
    return " or ".join(_name_type(part) for part in parts if part is not NoneType)
