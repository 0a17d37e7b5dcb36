"""Is there a rule that finds the better of two real answers of like length?

Answers of seven models to AlpacaEval's instructions, of 1,000 characters at most, under
SmolLM2-135M-Instruct (s0) and under a student that was trained on what accept-all makes of short ones of the
instructions that rules are fitted on (s1). Pairs are two answers to one instruction with a clear verdict,
whose lengths differ by a quarter at most. Rules are fitted on 250 instructions and chosen on 75; the chosen
one, once, and what is not fitted are reported on 75 others. What is computed is kept in runs/real-data; the
same command goes on with it.

    python -m tests.bench.real_rules
"""

import json
import math
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch

from reflectune.agents.student.formulas import nll
from reflectune.agents.student.pairs import PairEncoder
from reflectune.agents.student.student import Student, StudentBase, open_encoder
from reflectune.agents.student.targets import Encoded
from reflectune.loop.demo.english.verdicts import (
    Answer,
    Judged,
    have_like_length,
    write_inputs,
)
from reflectune.loop.progress import LineDisplay
from reflectune.loop.run import create_run, run_loop
from reflectune.state.config import StudentConfig, load_config
from reflectune.state.data.labels import CLEAR
from reflectune.state.folder import RunFolder
from reflectune.state.records import Pair, Score, Term
from tests.bench.real import DATA, MODEL, draw, read_answers
from tests.bench.results import options, publish, table

__all__ = ["Contest", "Weighted", "fit", "share_right", "token_features"]

_MODELS = (
    "pythia-12b-mix-sft", "chatglm2-6b", "vicuna-7b-v1.5", "wizardlm-13b", "gpt-3.5-turbo-0301",
    "gpt4_0613_concise", "Mixtral-8x7B-Instruct-v0.1_concise",
)  # fmt: skip
_FIT, _CHOOSE = 250, 75  # instructions; the rest is for the report
_LONGEST = 1000  # characters of an answer
_TERMS: tuple[Term, ...] = ("response_given_instruction", "response_alone", "instruction_given_response")
_AT_ONCE = 8  # instructions

Features = Mapping[str, float | None]  # of one answer, by name; None where it was not scored


class Contest(NamedTuple):
    """Two answers to one instruction, the first of them the better one."""

    instruction: str
    better: Features
    worse: Features


def main() -> None:
    parser = options(__doc__)
    arguments = parser.parse_args()
    judged = [_leave_comparable(row) for row in read_answers()]
    random.Random("real-rules").shuffle(judged)
    parts = judged[:_FIT], judged[_FIT : _FIT + _CHOOSE], judged[_FIT + _CHOOSE :]
    DATA.mkdir(parents=True, exist_ok=True)
    config = StudentConfig(model=str(MODEL), max_length=1024, dtype="bfloat16", threads=2)
    features = _compute("s0", judged, config, None)
    adapter = _train(parts[0])
    for row, now in zip(features, _compute("s1", judged, config, adapter), strict=True):
        for before, after in zip(row, now, strict=True):
            before |= {f"{name} now": value for name, value in after.items()}
            before["nll gained"] = _less(after["nll"], before["nll"])
    sides, unscored = _contests(judged, features)
    said = _ask(sides, config.model_copy(update={"max_length": 2048}))
    contests = [Contest(*side[:3]) for side in sides]
    publish("Rules on real answers", _tell(contests, said, parts, unscored), arguments)


def _leave_comparable(row: Judged) -> Judged:
    """A row with the answers that some other one of it is compared with."""
    usable = [
        it
        for it in row.answers
        if it.model in _MODELS and it.response.strip() and len(it.response) <= _LONGEST
    ]
    return row._replace(
        answers=tuple(it for it in usable if any(_are_comparable(it, other) for other in usable))
    )


def _are_comparable(one: Answer, other: Answer) -> bool:
    """Whether two answers are of like length, and one is clearly the better."""
    return abs(one.verdict - other.verdict) > CLEAR and have_like_length(one.response, other.response)


def _compute(
    name: str, judged: Sequence[Judged], config: StudentConfig, adapter: Path | None
) -> list[list[dict[str, float | None]]]:
    """The features of each answer under a student; kept line by line, one an instruction."""
    kept = DATA / f"features-{name}.jsonl"
    known = _whole_lines(kept)
    with StudentBase(config) as base, Student(base, adapter) as student, kept.open("a") as out:
        model, tokenizer, template = base.open()
        encoder = PairEncoder(template, open_encoder(model, tokenizer, template, config))
        for start in range(len(known), len(judged), _AT_ONCE):
            group = judged[start : start + _AT_ONCE]
            pairs = [Pair(row.instruction, "", answer.response) for row in group for answer in row.answers]
            scores = iter(student.score([(pair, term) for pair in pairs for term in _TERMS]))
            for row in group:
                line = []
                for answer in row.answers:
                    sums = {term: next(scores) for term in _TERMS}
                    found = _sum_features(sums)
                    if adapter is None:
                        pair = Pair(row.instruction, "", answer.response)
                        found |= _of_tokens(model, encoder, pair)
                    line.append(found)
                known.append(json.dumps(line))
                print(known[-1], file=out, flush=True)
            print(f"{name}: {len(known)} of {len(judged)} instructions", flush=True)
    return [json.loads(line) for line in known]


def _whole_lines(kept: Path) -> list[str]:
    """The lines of a file that may not be there yet; one that was cut short is removed."""
    text = kept.read_text() if kept.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    kept.write_text(whole)
    return whole.splitlines()


def _sum_features(sums: Mapping[Term, Score]) -> dict[str, float | None]:
    """What comes of the sums of log-probabilities, as logarithms where they are ratios."""
    given, alone = sums["response_given_instruction"], sums["response_alone"]
    nlls = [nll(sums, term) for term in _TERMS]
    return {
        "nll": nlls[0],
        "nll alone": nlls[1],
        "log ifd": _less(nlls[0], nlls[1]),
        "pmi": _less(given.sum_logprob, alone.sum_logprob),
        "nll of x given y": nlls[2],
        "log tokens": math.log(given.num_tokens) if given.num_tokens else None,
    }


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _of_tokens(model: Any, encoder: PairEncoder, pair: Pair) -> dict[str, float | None]:
    (encoded,) = encoder.encode([(pair, "response_given_instruction")])
    if not isinstance(encoded, Encoded):
        return dict.fromkeys(_TOKENS)
    with torch.no_grad():
        ids = torch.tensor([encoded.ids])
        logits = model(ids).logits[0, encoded.first_target - 1 : -1].float()
    return {**token_features(logits, ids[0, encoded.first_target :])}


def token_features(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """What single tokens tell of a text; logits are (T, V), targets (T,). In nats per token, and shares.

    "least likely fifth": mean surprise of the most surprising fifth of tokens (Min-K%, arXiv 2310.16789).
    "over entropy": surprise less what the student expected it to be. "first choice": how often the token
    was its likeliest.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    surprise = -logprobs.gather(1, targets[:, None])[:, 0]
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    fifth = max(1, len(surprise) // 5)
    return {
        "least likely fifth": float(surprise.topk(fifth).values.mean()),
        "spread": float(surprise.std()) if len(surprise) > 1 else 0.0,
        "entropy": float(entropy.mean()),
        "over entropy": float((surprise - entropy).mean()),
        "first choice": float((logits.argmax(-1) == targets).float().mean()),
        "last quarter": float(surprise[-max(1, len(surprise) // 4) :].mean()),
    }


def _train(fitted: Sequence[Judged]) -> Path:
    """The adapter of a run of one round, accept-all, on the instructions that rules are fitted on."""
    folder = RunFolder(DATA / "rules")
    if not folder.path.exists():
        whole = {row.instruction: row for row in read_answers()}
        drawn = draw([whole[row.instruction] for row in fitted], seed=0)
        data, teacher = DATA / "rules.json", DATA / "rules-teacher.jsonl"
        write_inputs(drawn, data, teacher)
        changes = {
            "name": "rules", "rounds": 1, "data.path": data, "data.holdout": 0, "teacher.path": teacher,
            "selection.policy": "accept-all", "selection.keep": "all", "selection.train_max_ifd": 1e9,
            "selection.train_max_r_ifd": 1e9, "refinetune.tokens": 24_000, "student.threads": 2,
        }  # fmt: skip
        base = Path(__file__).with_name("real_base.toml")
        create_run(load_config(base, [f"{key}={value}" for key, value in changes.items()]), DATA)
    if not folder.adapter(1).exists():
        run_loop(folder, LineDisplay())
    return folder.adapter(1)


Side = tuple[str, Features, Features, Answer, Answer]


def _contests(judged: Sequence[Judged], features: Sequence[Sequence[Features]]) -> tuple[list[Side], int]:
    """All pairs of like length with a clear verdict, the better answer first; how many more are unscored."""
    found, unscored = [], 0
    for row, known in zip(judged, features, strict=True):
        for one, other in combinations(zip(known, row.answers, strict=True), 2):
            if _are_comparable(one[1], other[1]):
                better, worse = (one, other) if one[1].verdict > other[1].verdict else (other, one)
                if None in (*better[0].values(), *worse[0].values()):
                    unscored += 1
                else:
                    found.append((row.instruction, better[0], worse[0], better[1], worse[1]))
    return found, unscored


_QUESTION = (
    "Instruction:\n{}\n\nAnswer A:\n{}\n\nAnswer B:\n{}\n\n"
    "Which answer is better, A or B? Reply with one letter."
)


def _ask(sides: Sequence[Side], config: StudentConfig) -> list[float]:
    """The student's own judgement of each pair, in both orders: nats by which it prefers the better one."""
    kept = DATA / "judgements.jsonl"
    known = _whole_lines(kept)
    with StudentBase(config) as base, kept.open("a") as out:
        model, tokenizer, template = base.open()
        encoder = PairEncoder(template, open_encoder(model, tokenizer, template, config))
        for instruction, _, _, better, worse in sides[len(known) :]:
            first = _prefer(model, encoder, instruction, better, worse)
            second = _prefer(model, encoder, instruction, worse, better)
            known.append(f"{first - second}")
            print(known[-1], file=out, flush=True)
    return [float(value) for value in known]


def _prefer(model: Any, encoder: PairEncoder, instruction: str, one: Answer, other: Answer) -> float:
    """By how many nats A is the likelier reply than B, of the first answer than of the second."""
    asked = _QUESTION.format(instruction, one.response, other.response)
    pairs = [(Pair(asked, "", letter), _TERMS[0]) for letter in "AB"]
    a, b = (row for row in encoder.encode(pairs) if isinstance(row, Encoded))
    with torch.no_grad():
        last = model.model(torch.tensor([a.ids[: a.first_target]])).last_hidden_state[0, -1]
        letters = model.lm_head.weight[[row.ids[row.first_target] for row in (a, b)]]
        logits = letters.float() @ last.float()  # in bfloat16 many would be equal
    return float(logits[0] - logits[1])


Rule = Callable[[Sequence[Contest]], list[float]]  # for each contest, by how much it prefers the better one

_SUMS = ("nll", "nll alone", "log ifd", "pmi", "nll of x given y", "log tokens")
_TOKENS = ("least likely fifth", "spread", "entropy", "over entropy", "first choice", "last quarter")
_NOW = (*(f"{name} now" for name in _SUMS[:-1]), "nll gained")
_SETS = {
    "sums": _SUMS,
    "sums, now too": (*_SUMS, *_NOW),
    "tokens": _TOKENS,
    "all": (*_SUMS, *_NOW, *_TOKENS),
}
_PENALTIES = (0.01, 0.1, 1.0)  # of the mean loss, times half the squared weights
# What the table of policies compares, at like length; r-IFD's other term is the same for both answers.
_POLICIES = {
    "ifd": ("log ifd", 1), "r-ifd": ("nll of x given y", -1), "perplexity": ("nll", -1),
    "surprise": ("nll", 1), "pmi": ("pmi", 1), "longest": ("log tokens", 1),
}  # fmt: skip


class Weighted(NamedTuple):
    """A rule that weighs features, each in units of its spread over the contests it was fitted on."""

    names: Sequence[str]
    spread: torch.Tensor  # (F,)
    weights: torch.Tensor  # (F,)

    def __call__(self, contests: Sequence[Contest]) -> list[float]:
        """By how much each better answer is preferred."""
        return (_differences(contests, self.names) / self.spread @ self.weights).tolist()  # type: ignore[no-any-return]

    def __str__(self) -> str:
        """Each feature with its weight."""
        return ", ".join(
            f"{name} {weight:+.2f}" for name, weight in zip(self.names, self.weights, strict=True)
        )


def fit(contests: Sequence[Contest], names: Sequence[str], penalty: float) -> Weighted:
    """A weighted sum of features, by logistic regression without a constant on their differences.

    Features are scaled by their spread over the contests. Source: Bradley and Terry, Biometrika 1952.
    """
    differences = _differences(contests, names)
    scale = differences.square().mean(0).sqrt().clamp_min(1e-9)
    weights = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.softplus(-(differences / scale) @ weights).mean()
        value = value + penalty / 2 * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return Weighted(names, scale, weights.detach())


def _differences(contests: Sequence[Contest], names: Sequence[str]) -> torch.Tensor:
    rows = [[it.better[name] - it.worse[name] for name in names] for it in contests]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, len(names))


def share_right(contests: Sequence[Contest], preferred: Sequence[float]) -> tuple[float, float, float]:
    """How often the better one is preferred, a tie by half, with its 95 % interval over instructions.

    The interval is by a bootstrap of instructions, whose contests belong together.
    """
    by_instruction: dict[str, list[float]] = {}
    for contest, value in zip(contests, preferred, strict=True):
        by_instruction.setdefault(contest.instruction, []).append(0.5 if value == 0 else float(value > 0))
    groups, lots = list(by_instruction.values()), random.Random(0)
    drawn = []
    for _ in range(1000):
        some = [value for group in lots.choices(groups, k=len(groups)) for value in group]
        drawn.append(statistics.fmean(some))
    drawn.sort()
    whole = [value for group in groups for value in group]
    return statistics.fmean(whole), drawn[24], drawn[974]


def _tell(
    contests: Sequence[Contest], said: Sequence[float], parts: Sequence[Sequence[Judged]], unscored: int
) -> Iterator[str]:
    names = [{row.instruction for row in part} for part in parts]
    split = [[it for it in contests if it.instruction in part] for part in names]
    judgement = {id(contest): value for contest, value in zip(contests, said, strict=True)}
    single = tuple(dict.fromkeys(name for names in _SETS.values() for name in names))
    rules: dict[str, Rule] = {
        f"only {name}": fit(split[0], (name,), 0.0) for name in single
    } | {
        f"{title}, penalty {penalty}": fit(split[0], names, penalty)
        for title, names in _SETS.items()
        for penalty in _PENALTIES
    }  # fmt: skip
    rules["own judgement"] = lambda those: [judgement[id(contest)] for contest in those]
    rules |= {f"policy {name}": _policy(*what) for name, what in _POLICIES.items()}
    found = {name: [share_right(part, rule(part)) for part in split] for name, rule in rules.items()}
    chosen = max(found, key=lambda name: found[name][1][0])
    unfitted = [*(f"policy {name}" for name in _POLICIES), "own judgement"]
    over_all = {name: share_right(contests, rules[name](contests)) for name in unfitted}
    fitted, choosing, reported = map(len, split)
    share, low, high = found[chosen][2]
    rule = rules[chosen]
    weights = f" Its weights, by spread of the features: {rule}." if isinstance(rule, Weighted) else ""
    yield (
        f"Pairs of like length with a clear verdict: {fitted} to fit on, {choosing} to choose on, {reported} "
        f"to report on. {len(rules)} rules were tried; the one that was right most often on the second part "
        f"is {chosen!r}. It is right on the third in {share:.0%} ({low:.0%} to {high:.0%}). Chance is 50 %. "
        f"{unscored} more pairs have an answer that could not be scored. s1 was trained on answers of the "
        "first part, so what it says of that part is of texts that it has seen. The answers of all parts are "
        "by the same models, and s1 was trained on the weaker ones': a rule that asks it may tell models "
        f"apart rather than answers.{weights} Features depend on one another: no weight can be read alone."
    )
    yield ""
    head = "rule | fitted on | chosen on | reported on | all three"
    rows = {chosen: [*map(_cell, found[chosen]), "-"]}
    rows |= {name: [*map(_cell, found[name]), _cell(over_all[name])] for name in unfitted}
    yield from table(head, (" | ".join((name, *cells)) for name, cells in rows.items()))
    yield "The others, as far as they were fitted and chosen:"
    yield ""
    others = (name for name in found if name not in rows)
    yield from table(
        "rule | fitted on | chosen on",
        (f"{name} | {' | '.join(map(_cell, found[name][:2]))}" for name in others),
    )


def _policy(name: str, sign: int) -> Rule:
    return lambda those: [sign * (it.better[name] - it.worse[name]) for it in those]


def _cell(share: tuple[float, float, float]) -> str:
    return f"{share[0]:.1%} ({share[1]:.0%} to {share[2]:.0%})"


if __name__ == "__main__":
    main()
