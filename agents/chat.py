"""What a model's own chat template makes of messages, and where in that an answer stands.

A chat template is a program of its own. Nothing is taken for granted of it: all is found by rendering. Loads
no torch.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reflectune.agents.thoughts import is_tag
from reflectune.state.errors import StudentError
from reflectune.state.text import one_line

__all__ = ["Chat", "find_separator", "open_chat"]

Messages = Sequence[Mapping[str, Any]]

# Plain words that no data has: what stands around them is the template's.
_QUESTION, _ANSWER, _RULES = "Question-5b1f9c", "Answer-8c1d7e", "Rules-2e9a4d"
_PROBE: Messages = [{"role": "user", "content": _QUESTION}]
_REPLY = {"role": "assistant", "content": _ANSWER}
# What separates documents in the training of models that have no BOS, by its usual names.
_SEPARATORS = ("<|endoftext|>", "<|end_of_text|>")


@dataclass(frozen=True, slots=True)
class Chat:
    """A tokenizer's chat template, rendered with one run's settings.

    `thinking` lets the model think before it answers, where its template has a switch for that; `date` is
    today's for templates that print it; `in_parts` is for templates that want a list of a message's parts.
    Where a template knows no system messages, they open the user's turn that follows.
    """

    tokenizer: Any
    thinking: bool
    date: datetime.date
    in_parts: bool = False
    takes_system: bool = True

    def render(self, messages: Messages, *, generate: bool = False) -> str:
        """The messages as text; with `generate` up to where the model writes, its thoughts first.

        Raises:
            StudentError: the template refuses them.
        """
        settings = {
            "enable_thinking": self.thinking,
            "thinking": self.thinking,
            "date_string": self.date.strftime("%d %b %Y"),
            "strftime_now": self.date.strftime,
        }
        told = messages if self.takes_system else _join_system(messages)
        turns = [{**message, "content": self._content(message["content"])} for message in told]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=generate, **settings
                )
            )
        except Exception as error:  # whatever such a program does
            what = f"its chat template does not take messages: {one_line(str(error))}"
            raise StudentError(f"{self.tokenizer.name_or_path}: {what}") from error

    def open_answer(self, messages: Messages) -> str:
        """The messages as text, up to where the assistant's answer to the last of them stands.

        That is behind an empty thought, or a channel's name, where the template has one.
        """
        return self._split(messages)[0]

    def marks(self) -> list[str]:
        """Names of the added tokens that the template itself writes, but for the tags of thoughts."""
        tokens = _added_tokens(self.tokenizer, self.open_answer(_PROBE))
        return [token for token in tokens if not is_tag(token)]

    def turn_marks(self) -> list[str]:
        """Those between a user's text and the assistant's: they end or begin a turn."""
        return _added_tokens(self.tokenizer, self.open_answer(_PROBE).partition(_QUESTION)[2])

    def end_of_turn(self) -> str | None:
        """The token that the template puts behind an answer; None where it puts none."""
        return next(iter(_added_tokens(self.tokenizer, self._split(_PROBE)[1])), None)

    def _split(self, messages: Messages) -> tuple[str, str]:
        """What stands before and behind an answer."""
        before, _, behind = self.render([*messages, _REPLY]).rpartition(_ANSWER)
        return before, behind

    def _content(self, text: str) -> str | list[dict[str, str]]:
        return [{"type": "text", "text": text}] if self.in_parts else text


def open_chat(tokenizer: Any, *, thinking: bool, date: datetime.date) -> Chat:
    """The chat template of a tokenizer that has one, tried out.

    Raises:
        StudentError: it fails, or what it makes of a user's and an assistant's text lacks one of them.
    """
    faults = []
    for in_parts in (False, True):
        chat = Chat(tokenizer, thinking, date, in_parts)
        try:
            text = chat.render([*_PROBE, _REPLY])
            if _QUESTION in text and _ANSWER in text:
                return replace(chat, takes_system=_takes_system(chat))
            what = "its chat template leaves out the user's text or the answer"
            faults.append(StudentError(f"{tokenizer.name_or_path}: {what}"))
        except StudentError as error:
            faults.append(error)
    raise faults[0]


def _takes_system(chat: Chat) -> bool:
    try:
        return _RULES in chat.render([{"role": "system", "content": _RULES}, *_PROBE])
    except StudentError:
        return False


def _join_system(messages: Messages) -> list[Mapping[str, Any]]:
    """The messages with the system's in front of the text that follows it."""
    joined: list[Mapping[str, Any]] = []
    for message in messages:
        if joined and joined[-1]["role"] == "system" and message["role"] == "user":
            message = {**message, "content": f"{joined.pop()['content']}\n\n{message['content']}"}
        joined.append(message)
    return joined


def find_separator(tokenizer: Any) -> str:
    """The token in front of a text that stands alone, so that something predicts its first token.

    BOS, unless the model has none or knows it as a turn mark, behind which it expects a role; then EOS by the
    same rule; then what separates documents, by its usual names; and where that is missing too, BOS or EOS.

    Raises:
        StudentError: the tokenizer has neither BOS nor EOS.
    """
    own: list[str] = [token for token in (tokenizer.bos_token, tokenizer.eos_token) if token is not None]
    if not own:
        raise StudentError(f"{tokenizer.name_or_path}: its tokenizer has neither a BOS nor an EOS token")
    named = [token for token in _SEPARATORS if token in tokenizer.get_added_vocab()]
    marks = _find_turn_marks(tokenizer)
    return next((token for token in own + named if token not in marks), own[0])


def _find_turn_marks(tokenizer: Any) -> list[str]:
    if not tokenizer.chat_template:
        return []
    try:
        return open_chat(tokenizer, thinking=False, date=datetime.date.min).turn_marks()
    except StudentError:  # whoever uses the template is told
        return []


def _added_tokens(tokenizer: Any, text: str) -> list[str]:
    """Tokens of a text that stand in the tokenizer for themselves; white space may be one, and is no mark."""
    added = tokenizer.get_added_vocab()
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)
    return [token for token in tokens if token in added and token.strip()]
