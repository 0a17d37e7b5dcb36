"""Pairs as the texts that the student is trained on, for trainers that tokenise by themselves."""

from typing import NamedTuple

from reflectune.agents.chat import find_separator
from reflectune.agents.student.steps import NO_END
from reflectune.agents.student.templates import open_template
from reflectune.agents.tokenizers import open_tokenizer
from reflectune.state.config import StudentConfig
from reflectune.state.errors import StudentError
from reflectune.state.records import Pair

__all__ = ["Rendered", "Renderer"]


class Rendered(NamedTuple):
    """A prompt with everything in front of it, and what follows it with the token that ends it."""

    prompt: str
    completion: str

    def __str__(self) -> str:
        return self.prompt + self.completion


class Renderer:
    """One student's template, as text."""

    def __init__(self, config: StudentConfig) -> None:
        """Open tokenizer and template. A StudentError where either is missing, or no token ends an answer."""
        self._tokenizer = tokenizer = open_tokenizer(config)
        self._template = open_template(config, tokenizer)
        self._separator = config.separator or find_separator(tokenizer)
        end = self._template.end_id(tokenizer)
        if end is None:
            raise StudentError(NO_END)
        self.end: str = tokenizer.convert_ids_to_tokens(end)
        bare = tokenizer("a", add_special_tokens=False).input_ids
        added = tokenizer("a").input_ids
        # What the tokenizer puts in front of any text, where a trainer lets it.
        self.added: str = "".join(tokenizer.convert_ids_to_tokens(added[: added.index(bare[0])]))

    def render(self, pair: Pair) -> Rendered:
        """What training sees of a pair; but a special token that data spells out is one to a trainer."""
        prompt = self._template.prompt(pair)
        if self._template.chat is None and not prompt.startswith(self._separator):
            prompt = self._separator + prompt
        return Rendered(prompt, pair.response + self.end)

    def count(self, text: str) -> int:
        """Tokens of a rendered text."""
        return len(self._tokenizer(text, add_special_tokens=False).input_ids)
