"""The texts that a refinetune sees, step by step: encoded once, drawn anew for every epoch.

Nothing here knows a model, or how many processes share a step.
"""

import itertools
import random
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace

from reflectune.agents.student.pairs import PairEncoder
from reflectune.agents.student.targets import Encoded, EncodedTexts, TargetEncoder
from reflectune.agents.student.templates import Template
from reflectune.state.config import RefinetuneConfig
from reflectune.state.errors import AdapterError, StudentError
from reflectune.state.groups import in_groups
from reflectune.state.records import Pair

__all__ = ["NO_END", "TrainingSteps", "encode_pairs", "with_earlier_turns"]

NO_END = "the student's tokenizer has no EOS token to end a response with"
_AT_ONCE = 512  # pairs encoded at a time


def encode_pairs(
    encoder: TargetEncoder, template: Template, end: int | None, pairs: Iterable[Pair]
) -> tuple[EncodedTexts, int, int]:
    """Prompt, response and end of every pair of which max_length leaves some response; it must of one.

    And how many of these max_length cut, the response or turns of the context; how many are left out.
    """
    if end is None:
        raise StudentError(NO_END)
    texts, truncated, left_out = EncodedTexts(), 0, 0
    encode = PairEncoder(template, encoder).encode
    for group in in_groups(pairs, _AT_ONCE):
        for item in encode([(pair, "response_given_instruction") for pair in group]):
            if isinstance(item, Encoded):
                truncated += item.truncated
                texts.append(replace(item, ids=[*item.ids, end][: encoder.max_length]))
            else:
                left_out += 1
    if not len(texts):
        raise AdapterError(
            f"none of {left_out} pairs can be trained on: no response fits behind its prompt "
            f"into {encoder.max_length} tokens; raise student.max_length"
        )
    return texts, truncated, left_out


def with_earlier_turns(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Pairs, and every earlier answer of an assistant in their contexts as the response of one."""
    for pair in pairs:
        yield pair
        for place, turn in enumerate(pair.context[1:], start=1):
            asked = pair.context[place - 1]
            is_answer = (asked.role, turn.role) == ("user", "assistant") and turn.content.strip()
            if is_answer and not turn.calls_tools:
                yield Pair(asked.content, "", turn.content, pair.context[: place - 1])


class TrainingSteps:
    """The texts of every optimizer step: `batch_tokens` of them, for so many epochs or so many tokens.

    Texts come in an order drawn anew for every epoch. The last text is the one that reaches `config.tokens`.
    """

    def __init__(self, texts: EncodedTexts, seed: int, config: RefinetuneConfig) -> None:
        self._texts = texts
        self._steps: list[array[int]] = []
        self.tokens = self.target_tokens = 0
        room = 0
        for index in self._draw(seed, config):
            length = texts.num_tokens(index)
            if length > room:
                self._steps.append(array("i"))
                room = config.batch_tokens
            self._steps[-1].append(index)
            room -= length
            self.tokens += length
            self.target_tokens += texts.num_targets(index)

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, step: int) -> list[Encoded]:
        return [self._texts[index] for index in self._steps[step]]

    def _draw(self, seed: int, config: RefinetuneConfig) -> Iterator[int]:
        for epoch in itertools.count() if config.epochs is None else range(config.epochs):
            for index in random.Random(f"{seed}-{epoch}").sample(range(len(self._texts)), len(self._texts)):
                yield index
                if config.tokens is not None and self.tokens >= config.tokens:
                    return
