"""Talks to a model on this machine in its own chat template: messages to token ids, token ids to an answer.

A model that is not to think gets a prompt that ends where its answer stands, behind an empty thought or
a channel's name. One that is, writes its thoughts first, and their marks stay in its text. Loads no torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from reflectune.agents.chat import open_chat
from reflectune.agents.encoding import TextEncoder
from reflectune.agents.thoughts import decode_written, find_opened
from reflectune.state.config import StudentConfig

__all__ = ["LocalChat"]


class LocalChat:
    """Prompts and answers of one model. Tokens of `stop_ids` end an answer, whatever the tokenizer says."""

    def __init__(self, tokenizer: Any, source: StudentConfig, embeddings: int) -> None:
        """Take a fast tokenizer, and how many tokens its model can embed; the model need not be open yet.

        Raises:
            StudentError: the chat template is of no use.
        """
        self._tokenizer, self._chat = tokenizer, None
        if tokenizer.chat_template:
            self._chat = open_chat(tokenizer, thinking=source.thinking, date=source.date)
        self._encoder = TextEncoder(tokenizer, self._chat.marks() if self._chat else (), embeddings)
        end = self._chat and self._chat.end_of_turn()
        self.stop_ids: list[int] = [] if end is None else [tokenizer.convert_tokens_to_ids(end)]
        self._opened = find_opened(self._render([{"role": "user", "content": "Why?"}]))

    def encode(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of {"role", "content"} messages, up to where the model writes.

        Special tokens that a content spells out are its letters. Without a chat template the contents stand
        one after the other, an empty line between them, behind what the tokenizer puts in front of any text.

        Raises:
            StudentError: the chat template does not take them.
        """
        hidden = [{**message, "content": self._encoder.hide(message["content"])} for message in messages]
        first = [] if self._chat else self._tokenizer("").input_ids
        return [*first, *self._encoder.encode_prompts([self._render(hidden)])[0]]

    def decode(self, ids: Sequence[int]) -> str:
        """What a model wrote, behind the mark of a thought where its prompt ended in one."""
        return self._opened + decode_written(self._tokenizer, [id for id in ids if id not in self.stop_ids])

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        if self._chat is None:
            return "\n\n".join(message["content"] for message in messages)
        if self._chat.thinking:
            return self._chat.render(messages, generate=True)
        return self._chat.open_answer(messages)
