"""Prompts that a student is trained and scored with: P(x), R(y), and x as a target; a check of its files.

All wording comes from TOML: files of this folder, or one of the user's. Fields
are replaced once and literally, so that pairs may hold braces. Nothing here tokenises or scores, and
importing it loads no torch.
"""

import json
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflectune.agents.chat import Chat, open_chat
from reflectune.agents.model_files import find_fault, has_chat_template
from reflectune.agents.thoughts import begins_with_thought, drop_empty_thought
from reflectune.state.config import TEMPLATES, StudentConfig, read_toml
from reflectune.state.data.conversations import calls_tools
from reflectune.state.errors import ConfigError, StudentError
from reflectune.state.records import Pair, Term, Turn

__all__ = ["Template", "check_student", "open_template"]

# Key of a template file -> the fields its text must hold.
_FIELDS: dict[str, tuple[str, ...]] = {
    "prompt": ("instruction",),
    "prompt_with_input": ("instruction", "input"),
    "reverse": ("response",),
    "target_with_input": ("instruction", "input"),
}
_DEFAULTS = {"target_with_input": "{instruction}\n{input}"}
_FIELD = re.compile(r"\{(\w+)\}")
_NO_CHAT_TEMPLATE = 'the student has no chat template; set student.template = "plain"'
_SHIPPED = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Template:
    """The prompts of one student."""

    texts: Mapping[str, str]  # by the keys of a template file
    chat: Chat | None = None  # a chat model's own template, which goes around what these say

    def prompt(self, pair: Pair) -> str:
        """P(x): what stands before the response; no empty thought before one that brings its own."""
        prompt = self._wrap(self._ask(pair), pair.context)
        return drop_empty_thought(prompt) if begins_with_thought(pair.response) else prompt

    def opening(self, pair: Pair) -> str:
        """What the student goes on from: P(x), or where it may think, what stands before its thoughts."""
        if self.chat is None or not self.chat.thinking:
            return self._wrap(self._ask(pair), pair.context)
        return self.chat.render(_messages(pair.context, self._ask(pair)), generate=True)

    def reverse(self, pair: Pair) -> str:
        """R(y): shows the response, and asks for its instruction as the next turn after the context."""
        return self._wrap(self._fill("reverse", pair), pair.context)

    def instruction_target(self, pair: Pair) -> str:
        """x as a target: the instruction, with its input where there is one."""
        return self._fill("target_with_input", pair) if pair.input.strip() else pair.instruction

    def end_id(self, tokenizer: Any) -> int | None:
        """The token that ends an answer: the chat template's, or EOS; None where there is neither."""
        end = (self.chat and self.chat.end_of_turn()) or tokenizer.eos_token
        return None if end is None else int(tokenizer.convert_tokens_to_ids(end))

    def render(self, pair: Pair, term: Term) -> tuple[str, str]:
        """The target of a term, and the text in front of it that it is given, or would be if not alone."""
        if term in ("response_given_instruction", "response_alone"):
            return self.prompt(pair), pair.response
        return self.reverse(pair), self.instruction_target(pair)

    def check_contexts(self, contexts: Iterable[tuple[Turn, ...]]) -> None:
        """Try contexts that `outline` made, with an empty turn of the user after them.

        Raises:
            StudentError: the chat template refuses one, or leaves out a turn of a user or an assistant.
        """
        if self.chat is None:
            return
        name = self.chat.tokenizer.name_or_path
        for context in contexts:
            roles = ", ".join(turn.role for turn in context)
            advice = 'set student.template = "plain", or ' + (
                'leave these out with data.odd.earlier_tools = "skip"'
                if calls_tools(context)
                else "remove these"
            )
            try:
                text = self.prompt(Pair("", "", "", context))
            except StudentError as error:
                raise StudentError(
                    f"{error}; the turns of some pairs before theirs: {roles}; {advice}"
                ) from error
            lost = [
                turn.role
                for turn in context
                if turn.role in ("user", "assistant") and turn.content not in text
            ]
            if lost:
                raise StudentError(
                    f"{name}: its chat template leaves out a turn of the {lost[0]} ({roles}); {advice}"
                )

    def _ask(self, pair: Pair) -> str:
        return self._fill("prompt_with_input" if pair.input.strip() else "prompt", pair)

    def _wrap(self, text: str, context: Sequence[Turn]) -> str:
        if self.chat is not None:
            return self.chat.open_answer(_messages(context, text))
        return "".join(self._tell(turn) for turn in context) + text

    def _tell(self, turn: Turn) -> str:
        """An earlier turn as text: a user's is a prompt without its response, which is the next one."""
        said = "\n".join(filter(None, (turn.content, json.dumps(turn.told) if turn.told else "")))
        return self._ask(Pair(said, "", "")) if turn.role == "user" else f"{said}\n\n"

    def _fill(self, key: str, pair: Pair) -> str:
        return _FIELD.sub(lambda match: getattr(pair, match[1]), self.texts[key])


def open_template(config: StudentConfig, tokenizer: Any) -> Template:
    """The template that `student.template` names: a shipped one, "chat" (the tokenizer's), or a TOML file."""
    if config.template != "chat":
        shipped = _SHIPPED / f"{config.template}.toml"
        return Template(_read_texts(shipped if config.template in TEMPLATES else Path(config.template)))
    if not tokenizer.chat_template:
        raise StudentError(f"{tokenizer.name_or_path}: {_NO_CHAT_TEMPLATE}")
    chat = open_chat(tokenizer, thinking=config.thinking, date=config.date)
    return Template(_read_texts(_SHIPPED / "chat.toml"), chat)


def check_student(config: StudentConfig) -> None:
    """Raise a StudentError for one that surely cannot be opened. Looks at files only; a hub name passes."""
    if config.template not in TEMPLATES:
        _read_texts(Path(config.template))
    if fault := find_fault(config.model):
        raise StudentError(fault)
    folder = Path(config.model)
    if config.template == "chat" and folder.is_dir() and not has_chat_template(folder):
        raise StudentError(f"{config.model}: {_NO_CHAT_TEMPLATE}")


def _messages(context: Sequence[Turn], text: str) -> list[dict[str, Any]]:
    """The context, and a user's turn after it."""
    return [*map(_message, context), {"role": "user", "content": text}]


def _message(turn: Turn) -> dict[str, Any]:
    """A turn as chat templates take it: they write the arguments of a call as JSON themselves."""
    told = turn.told
    calls = [*told.get("tool_calls", ()), told] if isinstance(told.get("tool_calls", ()), list) else [told]
    for call in calls:
        function = call.get("function", call.get("function_call")) if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            with suppress(ValueError):
                function["arguments"] = json.loads(function["arguments"])
    return {"role": turn.role, "content": turn.content} | told


def _read_texts(path: Path) -> dict[str, str]:
    try:
        values = read_toml(path)
    except FileNotFoundError:
        raise StudentError(f"{path}: no such template; want {', '.join(TEMPLATES)} or a TOML file") from None
    except ConfigError as error:
        raise StudentError(str(error)) from error
    if unknown := [key for key in values if key not in _FIELDS]:
        raise StudentError(f"{path}: unknown key {unknown[0]}; a template has {', '.join(_FIELDS)}")
    texts = _DEFAULTS | values
    for key, fields in _FIELDS.items():
        if fault := _find_text_fault(texts.get(key), fields):
            raise StudentError(f"{path}: {key} {fault}")
    return texts


def _find_text_fault(text: object, fields: tuple[str, ...]) -> str | None:
    if not isinstance(text, str):
        return f"must be a string, got {'nothing' if text is None else reprlib.repr(text)}"
    found = set(_FIELD.findall(text))
    wanted = " and ".join(f"{{{field}}}" for field in fields)
    if unknown := sorted(found - set(fields)):
        return f"cannot use {{{unknown[0]}}}; its fields are {wanted}"
    return None if found == set(fields) else f"must use {wanted}"
