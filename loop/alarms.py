"""What tells a collapse at a round's end: figures of stored rows, mostly of the pool against the given data.

Texts and scores of s0 are those of samples that `evaluate.base_samples` draws, the same ones in every round
and a thousand at most. What could be said of fewer than twenty is not said. Which figures fire is for
`state.alarms` and the thresholds in the config to say.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Literal

from reflectune.loop.context import SAMPLES_AT_ONCE
from reflectune.loop.stopping import best_round, stopping_measure
from reflectune.state.config import RunConfig
from reflectune.state.groups import in_groups
from reflectune.state.lineage.documents import Measures
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.policies import find_policy
from reflectune.state.records import PHASES, Evaluation, Pair

__all__ = [
    "derive_figures", "fall_behind", "has_lost_entities", "share_distinct", "share_near_duplicates",
    "share_opening",
]  # fmt: skip

_MOST, _FEW = 1000, 20  # samples, proposals
_SHINGLE = _OPENING = 3  # words
_SIMILAR = 0.8  # Jaccard similarity of near duplicates
_PERMUTATIONS, _BANDS, _SEED = 128, 32, 1  # of minhash

# In scripts without spaces between words each character is a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_QUOTED = re.compile(r"\"([^\"\n]+)\"|“([^”\n]+)”|«([^»\n]+)»|`([^`\n]+)`|(?<!\w)'([^'\n]+)'(?!\w)")
# A word before which no sentence, quotation or bracket begins.
_INNER_WORD = re.compile(r"(?<=[^\s.!?:;\"'“«`(\[*#>-] )[^\W\d_]\w+")


def derive_figures(lineage: LoopReader, config: RunConfig, round: int) -> dict[str, float]:
    """The known figures of a round that has been measured, by the names of their alarms."""
    samples = lineage.choose_samples(min(config.evaluate.base_samples, _MOST), config.seed)
    given, pool = (_read_pairs(lineage, at, samples) for at in (0, round))
    before, after = (lineage.measures([*pairs], "s0") for pairs in (given, pool))
    scores = [(before.get(old), after.get(new)) for old, new in zip(given, pool, strict=False)]
    old, new = (_read_responses(pairs.values()) for pairs in (given, pool))
    pairs = zip(given.values(), pool.values(), strict=False)  # a damaged pool may lack some: `verify` says so
    figures = {
        "length": _times(scores, "response_tokens"),
        "diversity": _divide(share_distinct(new), share_distinct(old)),
        "openings": _subtract(share_opening(new), share_opening(old)),
        "duplicates": _subtract(share_near_duplicates(new), share_near_duplicates(old)),
        "acceptance": _acceptance(lineage, config, round),
        "ifd_drift": _times(scores, "ifd"),
        "held_out": fall_behind(lineage.held_out_measures(), round),
        "entities": _share(has_lost_entities(first, now) for first, now in pairs),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _read_pairs(lineage: LoopReader, round: int, samples: Sequence[str]) -> dict[str, Pair]:
    """The samples' pairs in the pool D[r], by version, in the order of the samples."""
    pairs: dict[str, Pair] = {}
    for group in in_groups(samples, SAMPLES_AT_ONCE):
        pairs |= lineage.pool_pairs(round, group)
    return pairs


# Scores and decisions


def _times(
    scores: Iterable[tuple[Measures | None, Measures | None]], key: Literal["response_tokens", "ifd"]
) -> float | None:
    """The median of a measure over round 0's, of the samples that have it in both."""
    both = ((old and old[key], new and new[key]) for old, new in scores)
    known = [(old, new) for old, new in both if old is not None and new is not None]
    if len(known) < _FEW:
        return None
    old, new = (median(values) for values in zip(*known, strict=True))
    return _divide(new, old)


def _acceptance(lineage: LoopReader, config: RunConfig, round: int) -> float | None:
    """The share of a round's proposals that was taken; None for a policy that compares nothing."""
    policy, proposals = find_policy(config.selection.policy), lineage.count_proposals(round)
    if proposals < _FEW or not any(policy.measure(phase) for phase in PHASES):
        return None
    return lineage.count_decisions(round, reason="accepted") / proposals


def fall_behind(measures: Mapping[int, Mapping[str, Evaluation]], round: int) -> float | None:
    """How far a round's student is behind the best before it, by the measure that stopping goes by.

    In halves of its 95 % interval, on the side of the better: above 1 the best lies outside. 0 where it is
    not behind, None where one of the two is not measured, or this one over fewer samples.
    """
    name = stopping_measure({at: named for at, named in measures.items() if at <= round})
    best = best_round({at: named for at, named in measures.items() if at < round})
    now, then = (measures.get(at, {}).get(name) for at in (round, -1 if best is None else best))
    if now is None or then is None or now.low is None or now.high is None or now.n < then.n:
        return None
    behind, half = then.value - now.value, now.high - now.value
    if name == "nll":
        behind, half = -behind, now.value - now.low
    return _divide(max(0.0, behind), abs(half))  # rounding may end an interval an ulp before its value


# Texts


def _read_responses(pairs: Iterable[Pair]) -> list[list[str]]:
    """The words of each response that has any."""
    return [words for pair in pairs if (words := _WORD.findall(pair.response.casefold()))]


def share_distinct(texts: Sequence[Sequence[str]]) -> float | None:
    """The distinct ones among all word trigrams of some texts: distinct-3 of arXiv 1510.03055."""
    trigrams = Counter(shingle for words in texts for shingle in _shingles(words))
    return len(trigrams) / trigrams.total() if len(texts) >= _FEW and trigrams else None


def share_opening(texts: Sequence[Sequence[str]]) -> float | None:
    """The share of texts that begin with the three words that most begin with."""
    openings = Counter(tuple(words[:_OPENING]) for words in texts)
    return max(openings.values()) / len(texts) if len(texts) >= _FEW else None


def share_near_duplicates(texts: Sequence[Sequence[str]]) -> float | None:
    """The share of texts that have a near duplicate among the others.

    That is one of at least 80 % Jaccard similarity of word trigrams, as minhash estimates it.
    """
    if len(texts) < _FEW:
        return None
    from rensa import RMinHash, RMinHashLSH

    buckets, signatures = RMinHashLSH(_SIMILAR, _PERMUTATIONS, _BANDS), []
    for number, words in enumerate(texts):
        signature = RMinHash(_PERMUTATIONS, _SEED)
        signature.update([*map(" ".join, _shingles(words) or [tuple(words)])])
        buckets.insert(number, signature)
        signatures.append(signature)

    def is_alike(number: int, other: int) -> bool:
        return number != other and signatures[number].jaccard(signatures[other]) >= _SIMILAR

    numbers = range(len(texts))
    return sum(any(is_alike(n, other) for other in buckets.query(signatures[n])) for n in numbers) / len(
        texts
    )


def _shingles(words: Sequence[str]) -> list[tuple[str, ...]]:
    return [*zip(*(words[start:] for start in range(_SHINGLE)), strict=False)]


def has_lost_entities(first: Pair, now: Pair) -> bool | None:
    """Whether a pair's three texts hold fewer than half of its first instruction's entities; None of none.

    Entities are numbers, quotations, and words inside a sentence that begin with a capital letter.
    """
    text = " ".join((now.instruction, now.input, now.response)).casefold()
    numbers = {*_NUMBER.findall(first.instruction)}
    quoted = {"".join(groups) for groups in _QUOTED.findall(first.instruction)}
    names = {word for word in _INNER_WORD.findall(first.instruction) if word[0].isupper()}
    known = [number in {*_NUMBER.findall(text)} for number in numbers]
    known += [said.casefold() in text for said in quoted | names]
    return 2 * sum(known) < len(known) if known else None


# Figures


def _share(verdicts: Iterable[bool | None]) -> float | None:
    known = [verdict for verdict in verdicts if verdict is not None]
    return sum(known) / len(known) if len(known) >= _FEW else None


def _divide(figure: float | None, by: float | None) -> float | None:
    return None if figure is None or not by else figure / by


def _subtract(figure: float | None, less: float | None) -> float | None:
    return None if figure is None or less is None else figure - less
