"""Which tokens of a rendered text are its target, by character offsets.

Prefix and target are tokenised together, once, as the student reads them in training; a token
belongs to the target where it reaches beyond the boundary. Nothing here knows prompts or models.
"""

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reflectune.agents.encoding import TextEncoder
from reflectune.state.errors import StudentError
from reflectune.state.records import Pair, Turn

__all__ = ["Encoded", "EncodedTexts", "TargetEncoder", "TargetFailure"]

TargetFailure = Literal["empty", "truncated-away"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as token ids; those from `first_target` on are the target, never the first of all."""

    ids: list[int]
    first_target: int
    truncated: bool = False  # the end of the target was cut

    @property
    def num_targets(self) -> int:
        """Tokens of the target."""
        return len(self.ids) - self.first_target


class EncodedTexts:
    """Encoded texts, four bytes a token."""

    def __init__(self) -> None:
        self._ids, self._ends, self._first_targets = array("i"), array("q", [0]), array("i")

    def append(self, text: Encoded) -> None:
        """Take one more."""
        self._ids.extend(text.ids)
        self._ends.append(len(self._ids))
        self._first_targets.append(text.first_target)

    def __len__(self) -> int:
        return len(self._first_targets)

    def __getitem__(self, index: int) -> Encoded:
        start, end = self._ends[index], self._ends[index + 1]
        return Encoded(self._ids[start:end].tolist(), self._first_targets[index])

    def num_tokens(self, index: int) -> int:
        """Tokens of one text."""
        return self._ends[index + 1] - self._ends[index]

    def num_targets(self, index: int) -> int:
        """Tokens of its target."""
        return self.num_tokens(index) - self._first_targets[index]


class TargetEncoder:
    """Turns (prefix, target) texts into token ids with a known boundary.

    In front of a target that stands alone is the separator, so that something predicts its first token. It is
    in front of prompts too, unless they begin with it or are whole: what a chat template makes is whole.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        separator: str,
        *,
        marks: Collection[str] | None = None,
        embeddings: int | None = None,
    ) -> None:
        """Take a fast tokenizer, left as it is, and the most tokens of prefix and target together.

        Args:
            separator: the token in front of a text alone.
            marks: tokens that the chat template writes, where one makes the prompts.
            embeddings: how many tokens the model can embed; None for all.
        """
        vocabulary = tokenizer.get_vocab()
        if separator not in vocabulary:
            raise StudentError(f"student.separator = {separator!r}: the tokenizer has no such token")
        for token in (separator, *(marks or ())):
            if embeddings is not None and vocabulary[token] >= embeddings:
                raise StudentError(f"prompts hold {token!r}, for which the model has no embedding")
        self.separator: int = vocabulary[separator]
        self.max_length = max_length
        self._is_whole = marks is not None
        self._texts = TextEncoder(tokenizer, marks or (), embeddings)

    def hide(self, pair: Pair) -> Pair:
        """A pair as it goes into prefix and target, so that special tokens in it stay text."""
        hide = self._texts.hide
        context = tuple(Turn(turn.role, hide(turn.content), hide(turn.more)) for turn in pair.context)
        return Pair(hide(pair.instruction), hide(pair.input), hide(pair.response), context)

    def encode(self, texts: Sequence[tuple[str, str]]) -> list[Encoded | TargetFailure]:
        """Encode (prefix, target) texts, in order.

        A target text that is empty or gives no token is "empty"; one that max_length leaves nothing of
        is "truncated-away".
        """
        encodings = self._texts.encode([prefix + target for prefix, target in texts])
        return [
            self._cut(encoding.ids, encoding.offsets, len(prefix))
            for encoding, (prefix, _) in zip(encodings, texts, strict=True)
        ]

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Encode texts to be continued, in order; not cut."""
        return [self._open(ids) for ids in self._texts.encode_prompts(prompts)]

    def alone(self, encoded: Encoded | TargetFailure, prefix: Sequence[int] = ()) -> Encoded | TargetFailure:
        """The very tokens of a target without its prefix: tokenised alone, they might be others.

        Behind the separator, or behind another prefix, of as many tokens as max_length leaves room for.
        """
        if not isinstance(encoded, Encoded):
            return encoded
        room = self.max_length - encoded.num_targets
        before = list(prefix or [self.separator])[-room:]
        return Encoded([*before, *encoded.ids[encoded.first_target :]], len(before), encoded.truncated)

    def _cut(self, ids: list[int], offsets: list[tuple[int, int]], boundary: int) -> Encoded | TargetFailure:
        first_target = next((i for i, (_, end) in enumerate(offsets) if end > boundary), len(ids))
        if first_target == len(ids):
            return "empty"
        opened = [self.separator, *ids] if first_target == 0 else self._open(ids)
        first_target += len(opened) - len(ids)
        if first_target >= self.max_length:
            return "truncated-away"
        return Encoded(opened[: self.max_length], first_target, truncated=len(opened) > self.max_length)

    def _open(self, ids: list[int]) -> list[int]:
        return ids if self._is_whole or ids[:1] == [self.separator] else [self.separator, *ids]
