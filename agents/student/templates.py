"""Prompts that a student is trained and scored with: P(x), R(y), and x as a target.

All wording comes from TOML: plain.toml and chat.toml in this folder, or a file of the user's. Fields
are replaced once and literally, so that pairs may hold braces. Nothing here tokenises or scores.
"""

import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflectune.state.config import read_toml
from reflectune.state.errors import ConfigError, StudentError
from reflectune.state.records import Pair

__all__ = ["NO_CHAT_TEMPLATE", "Template", "check_template", "open_template"]

# Key of a template file -> the fields its text must hold.
_FIELDS: dict[str, tuple[str, ...]] = {
    "prompt": ("instruction",),
    "prompt_with_input": ("instruction", "input"),
    "reverse": ("response",),
    "target_with_input": ("instruction", "input"),
}
_DEFAULTS = {"target_with_input": "{instruction}\n{input}"}
_FIELD = re.compile(r"\{(\w+)\}")
NO_CHAT_TEMPLATE = 'the student has no chat template; set student.template = "plain"'
_SHIPPED = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Template:
    """The prompts of one student.

    `texts` maps the keys of a template file to their texts; `wrap` turns a rendered prompt into what
    the model reads (a chat model's own template around one user turn).
    """

    texts: Mapping[str, str]
    wrap: Callable[[str], str] = str

    def prompt(self, pair: Pair) -> str:
        """P(x): what stands before the response."""
        key = "prompt_with_input" if _has_input(pair) else "prompt"
        return self.wrap(_fill(self.texts[key], instruction=pair.instruction, input=pair.input))

    def reverse(self, response: str) -> str:
        """R(y): shows the response and asks for its instruction."""
        return self.wrap(_fill(self.texts["reverse"], response=response))

    def instruction_target(self, pair: Pair) -> str:
        """x as a target: the instruction, with its input where there is one."""
        if not _has_input(pair):
            return pair.instruction
        return _fill(self.texts["target_with_input"], instruction=pair.instruction, input=pair.input)


def open_template(name: str, tokenizer: Any) -> Template:
    """The template that `student.template` names, for this tokenizer.

    Args:
        name: "plain", "chat" (the tokenizer's own chat template), or the path of a TOML file.
        tokenizer: a transformers tokenizer; only "chat" looks at it.

    Raises:
        StudentError: no chat template, or a file that is missing or not a template.
    """
    if name != "chat":
        return Template(_read_texts(_SHIPPED / "plain.toml" if name == "plain" else Path(name)))
    if not tokenizer.chat_template:
        raise StudentError(f"{tokenizer.name_or_path}: {NO_CHAT_TEMPLATE}")
    return Template(_read_texts(_SHIPPED / "chat.toml"), wrap=lambda turn: _chat(tokenizer, turn))


def check_template(name: str) -> None:
    """Refuse a template file that cannot be used; opens no tokenizer.

    Raises:
        StudentError: the file is missing or not a template.
    """
    if name not in ("plain", "chat"):
        _read_texts(Path(name))


def _has_input(pair: Pair) -> bool:
    return bool(pair.input.strip())


def _fill(text: str, **values: str) -> str:
    return _FIELD.sub(lambda match: values[match[1]], text)


def _chat(tokenizer: Any, turn: str) -> str:
    # Variables that some chat templates read and others ignore: the student learns responses without
    # deliberation, and a run resumed on another day must see the same prompts (the date is the default
    # of the templates that have one).
    try:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": turn}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
            date_string="26 Jul 2024",
        )
    except Exception as error:  # a chat template is a program of its own
        raise StudentError(f"the student's chat template refused a user turn: {error}") from error
    return str(rendered)


def _read_texts(path: Path) -> dict[str, str]:
    try:
        values = read_toml(path)
    except FileNotFoundError:
        raise StudentError(f"{path}: no such template; want chat, plain or a TOML file") from None
    except ConfigError as error:
        raise StudentError(str(error)) from error
    if unknown := [key for key in values if key not in _FIELDS]:
        raise StudentError(f"{path}: unknown key {unknown[0]}; a template has {', '.join(_FIELDS)}")
    texts = {**_DEFAULTS, **values}
    for key, fields in _FIELDS.items():
        _check_text(path, key, texts.get(key), fields)
    return texts


def _check_text(path: Path, key: str, text: object, fields: tuple[str, ...]) -> None:
    if not isinstance(text, str):
        got = "nothing" if text is None else reprlib.repr(text)
        raise StudentError(f"{path}: {key} must be a string, got {got}")
    found = set(_FIELD.findall(text))
    wanted = " and ".join(f"{{{field}}}" for field in fields)
    if unknown := sorted(found - set(fields)):
        raise StudentError(f"{path}: {key} cannot use {{{unknown[0]}}}; its fields are {wanted}")
    if found != set(fields):
        raise StudentError(f"{path}: {key} must use {wanted}")
