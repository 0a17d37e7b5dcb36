"""Texts to token ids, where data is text: a special token that data spells out is none."""

import copy
import json
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Encoding, Tokenizer

from reflectune.agents.thoughts import is_tag

__all__ = ["TextEncoder"]

# First of the code points that stand for special tokens in hidden data; nobody's text has them.
_PRIVATE = 0x100000
_HIDDEN = re.compile(f"[{chr(_PRIVATE)}-{chr(0x10FFFF)}]")


class TextEncoder:
    """A tokenizer's ids and character offsets for rendered texts; adds no token.

    Data that goes into a prompt is hidden first. In it the names of special tokens, and of tokens that the
    model has no embedding for, are then encoded as the letters they are, and those of the prompt as tokens.
    Tags of thoughts are tokens in both: data may hold thoughts.
    """

    def __init__(self, tokenizer: Any, marks: Collection[str] = (), embeddings: int | None = None) -> None:
        """Take a fast tokenizer, which is left as it is.

        Args:
            marks: tokens that mark turns, beside the special ones.
            embeddings: how many tokens the model can embed; None for all.
        """
        self._backend = copy.deepcopy(tokenizer.backend_tokenizer)
        self._backend.no_truncation()
        self._backend.no_padding()
        # Byte-level post-processors may trim spaces off the offsets: a token of a colon and a space
        # would then seem to end before the space that begins the target.
        self._backend.post_processor = None
        names = [
            token.content
            for id, token in tokenizer.added_tokens_decoder.items()
            if (token.special and not is_tag(token.content))
            or token.content in marks
            or (embeddings is not None and id >= embeddings)
        ]
        # As long as the name: offsets stay what they are.
        self._hidden = {name: chr(_PRIVATE + place) * len(name) for place, name in enumerate(names)}
        self._swapped = self._hidden | {hidden: name for name, hidden in self._hidden.items()}
        self._names, self._either = _any_of(names), _any_of(self._swapped)

    def hide(self, text: str) -> str:
        """Data as it goes into a prompt; `encode` gives the ids and offsets of what it was."""
        return self._names.sub(lambda match: self._hidden[match[0]], text)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Ids and offsets of texts, in order."""
        encodings: list[Encoding] = self._backend.encode_batch(list(texts), add_special_tokens=False)
        for index, text in enumerate(texts):
            if _HIDDEN.search(text):
                encodings[index] = self._renamed.encode(self._swap(text), add_special_tokens=False)
        return encodings

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Ids of texts to be continued, in order.

        Without spaces at their end: a tokenizer puts those into the first token of what follows.
        """
        return [encoding.ids for encoding in self.encode([prompt.rstrip(" ") for prompt in prompts])]

    def _swap(self, text: str) -> str:
        """Hidden names as they were written, and those of the prompt as the renamed tokenizer calls them."""
        return self._either.sub(lambda match: self._swapped[match[0]], text)

    @cached_property
    def _renamed(self) -> Tokenizer:
        """The same tokenizer, whose special tokens have names that stand in nobody's data."""
        settings = json.loads(self._backend.to_str())
        for token in settings["added_tokens"]:
            token["content"] = self._rename(token["content"])
        model = settings["model"]
        if "merges" in model:  # some of which may make a name, such as a special token "!"
            model["vocab"] |= {token["content"]: token["id"] for token in settings["added_tokens"]}
        elif isinstance(model["vocab"], dict):
            model["vocab"] = {self._rename(name): id for name, id in model["vocab"].items()}
        else:
            model["vocab"] = [[self._rename(name), score] for name, score in model["vocab"]]
        if model.get("unk_token") is not None:
            model["unk_token"] = self._rename(model["unk_token"])
        return Tokenizer.from_str(json.dumps(settings))

    def _rename(self, name: str) -> str:
        return self._hidden.get(name, name)


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Finds names; where several begin at one place, the longest."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)")
