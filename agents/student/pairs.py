"""Pairs to token ids: what a student is scored with, trained on and asked, within its longest text.

Where a conversation is too long, its oldest turns go first, by whole turns. Nothing here computes anything.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

from reflectune.agents.student.targets import Encoded, TargetEncoder, TargetFailure
from reflectune.agents.student.templates import Template
from reflectune.state.records import Pair, Term, Turn

__all__ = ["PairEncoder", "Prepared"]

Prepared = Encoded | TargetFailure  # a target as token ids, or why it cannot be scored

# What each term alone is compared with.
_GIVEN: dict[Term, Term] = {
    "response_alone": "response_given_instruction",
    "instruction_alone": "instruction_given_response",
}


class PairEncoder:
    """One student's template and tokenizer."""

    def __init__(self, template: Template, encoder: TargetEncoder) -> None:
        self.template, self.encoder = template, encoder
        self.max_length = encoder.max_length

    def encode(self, targets: Sequence[tuple[Pair, Term]]) -> list[Prepared]:
        """Render and encode targets, in the given order.

        A target alone is the very tokens that stand behind its prompt, cut where max_length cuts them there:
        the two sides of an IFD or r-IFD are about the same tokens. Without a context it stands behind the
        separator; with one, behind the same turns and a prompt whose own text is empty.
        """
        hidden = {pair: self.encoder.hide(pair) for pair in {pair for pair, _ in targets}}
        given = [(hidden[pair], _GIVEN.get(term, term)) for pair, term in targets]
        distinct = list(dict.fromkeys(given))
        texts = [self.template.render(pair, term) for pair, term in distinct]
        found = dict(zip(distinct, map(self._shorten, distinct, self.encoder.encode(texts)), strict=True))
        return [
            self._alone(*found[item], item[1]) if term in _GIVEN else found[item][0]
            for item, (_, term) in zip(given, targets, strict=True)
        ]

    def encode_openings(self, pairs: Sequence[Pair]) -> list[tuple[str, list[int]]]:
        """What the student goes on from for each pair, as text and as token ids; cut by turns alone."""
        hidden = [self.encoder.hide(pair) for pair in pairs]
        openings = [self.template.opening(pair) for pair in hidden]
        found = list(zip(openings, self.encoder.encode_prompts(openings), strict=True))
        for index, (pair, (_, ids)) in enumerate(zip(hidden, found, strict=True)):
            if len(ids) >= self.max_length and pair.context:
                found[index] = self._open(cut_context(pair, self._leaves_room))
        return found

    def _leaves_room(self, pair: Pair) -> bool:
        return len(self._open(pair)[1]) < self.max_length

    def _open(self, pair: Pair) -> tuple[str, list[int]]:
        opening = self.template.opening(pair)
        return opening, self.encoder.encode_prompts([opening])[0]

    def _alone(self, encoded: Prepared, pair: Pair, term: Term) -> Prepared:
        if not pair.context:
            return self.encoder.alone(encoded)
        kept = pair.response if term == "response_given_instruction" else ""  # its thoughts shape the prompt
        prefix, _ = self.template.render(Pair("", "", kept, pair.context), term)
        return self.encoder.alone(encoded, self.encoder.encode_prompts([prefix])[0])

    def _shorten(self, item: tuple[Pair, Term], encoded: Prepared) -> tuple[Prepared, Pair]:
        """What was encoded, after as much of the context as leaves the target whole; the pair with that."""
        pair, term = item
        if not pair.context or not _is_cut(encoded):
            return encoded, pair
        fitting = cut_context(pair, lambda it: not _is_cut(self._encode_one(it, term)))
        shorter = self._encode_one(fitting, term)
        return replace(shorter, truncated=True) if isinstance(shorter, Encoded) else shorter, fitting

    def _encode_one(self, pair: Pair, term: Term) -> Prepared:
        return self.encoder.encode([self.template.render(pair, term)])[0]


def _is_cut(encoded: Prepared) -> bool:
    return encoded == "truncated-away" or (isinstance(encoded, Encoded) and encoded.truncated)


def cut_context(pair: Pair, fits: Callable[[Pair], bool]) -> Pair:
    """The pair with its newest turns, as many as fit; with the system message alone where none do.

    A user's turn is never parted from what answers it.
    """
    head = next(
        (place for place, turn in enumerate(pair.context) if turn.role != "system"), len(pair.context)
    )
    system, turns = pair.context[:head], pair.context[head:]
    begins = [place for place, turn in enumerate(turns) if turn.role == "user" and place] + [len(turns)]
    shorter: list[tuple[Turn, ...]] = [system + turns[begin:] for begin in begins]
    first = bisect_left(shorter, True, key=lambda context: fits(replace(pair, context=context)))
    return replace(pair, context=shorter[min(first, len(shorter) - 1)])
