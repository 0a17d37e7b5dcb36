"""Which tokens of a rendered text are its target, by character offsets.

Prefix and target are tokenised together, once, as the student reads them in training; a token
belongs to the target where it reaches beyond the boundary. Nothing here knows prompts or models.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reflectune.state.errors import StudentError

__all__ = ["Encoded", "TargetEncoder", "TargetFailure"]

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


class TargetEncoder:
    """Turns (prefix, target) texts into token ids with a known boundary.

    One BOS id stands in front, or the EOS id where the tokenizer has no BOS, so that something predicts the
    first token of a target alone. Nothing is added where the rendered prefix begins with that id.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        """Take a fast tokenizer, left as it is, and the most tokens of prefix and target together."""
        first_id = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if first_id is None:
            raise StudentError("the student's tokenizer has neither a BOS nor an EOS token")
        self._first_id = int(first_id)
        self._max_length = max_length
        self._backend = copy.deepcopy(tokenizer.backend_tokenizer)
        self._backend.no_truncation()
        self._backend.no_padding()
        # Byte-level post-processors may trim spaces off the offsets: a token of a colon and a space
        # would then seem to end before the space that begins the target.
        self._backend.post_processor = None

    def encode(
        self, texts: Sequence[tuple[str, str]], max_targets: Sequence[int | None] | None = None
    ) -> list[Encoded | TargetFailure]:
        """Encode (prefix, target) texts, in order; of each at most so many target tokens, where that is said.

        A target text that is empty or gives no token is "empty"; one that max_length leaves nothing of
        is "truncated-away".
        """
        joined = [prefix + target for prefix, target in texts]
        encodings = self._backend.encode_batch(joined, add_special_tokens=False)
        limits = max_targets or [None] * len(texts)
        return [
            self._cut(encoding.ids, encoding.offsets, len(prefix), limit)
            for encoding, (prefix, _), limit in zip(encodings, texts, limits, strict=True)
        ]

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Encode texts to be continued, in order; not cut."""
        encodings = self._backend.encode_batch(list(prompts), add_special_tokens=False)
        return [
            encoding.ids if encoding.ids[:1] == [self._first_id] else [self._first_id, *encoding.ids]
            for encoding in encodings
        ]

    def _cut(
        self, ids: list[int], offsets: list[tuple[int, int]], boundary: int, limit: int | None
    ) -> Encoded | TargetFailure:
        first_target = next((i for i, (_, end) in enumerate(offsets) if end > boundary), len(ids))
        if first_target == len(ids):
            return "empty"
        if first_target == 0 or ids[0] != self._first_id:
            ids, first_target = [self._first_id, *ids], first_target + 1
        if first_target >= self._max_length:
            return "truncated-away"
        end = self._max_length if limit is None else min(self._max_length, first_target + limit)
        return Encoded(ids[:end], first_target, truncated=len(ids) > end)
