"""What selection is worth on a real model: SmolLM2-135M-Instruct, real answers of models, a judge's verdicts.

The plan is real.toml. Each instruction is given with a weak model's answer; the recorded teacher proposes in
each round the answer of a model drawn from that round's mix, stronger in later rounds, and often a worse one.
Every answer has a verdict that no run sees. A seed settles instructions, answers, split and training for all
arms alike. The runs are in runs/real; the same command goes on with them.

    python -m tests.bench.real
"""

import json
import random
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from reflectune.agents.student.formulas import nll
from reflectune.agents.student.student import Student
from reflectune.loop.context import find_adapter
from reflectune.loop.demo.english.verdicts import (
    Answer,
    Judged,
    Verdicts,
    account_for,
    have_like_length,
    read_judged,
    write_inputs,
)
from reflectune.loop.experiments.figures import ExperimentDocument
from reflectune.loop.experiments.plan import Experiment, load_experiment
from reflectune.loop.show.experiment import explain_experiment
from reflectune.state.config import RunConfig
from reflectune.state.data.labels import CLEAR
from reflectune.state.data.writing import put_into_place
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.records import Pair, content_hash
from tests.bench.plans import ROOT, percent, run_plan
from tests.bench.real_tables import MEASURED, POOLED, tabulate_rounds
from tests.bench.results import SHARED, options, publish

__all__ = [
    "DATA", "GIVEN", "MIXES", "MODEL", "PLAN", "draw", "judge", "keep_better", "rank", "read_answers",
    "spread",
]  # fmt: skip

PLAN = Path(__file__).with_name("real.toml")
DATA, RUNS = ROOT / "runs" / "real-data", ROOT / "runs" / "real"
JUDGED = SHARED / "data" / "judged.jsonl"
MODEL = ROOT / ".venv" / "models" / "smollm2"
INSTRUCTIONS = 110  # a seed, held-out ones too
_LONGEST = 400, 600  # characters of an instruction, and of an answer

# Who answers: as given, and in each round.
GIVEN = ("falcon-7b-instruct", "text_davinci_001", "oasst-sft-pythia-12b", "phi-2", "alpaca-7b")
MIXES = (
    (
        "oasst-sft-pythia-12b", "alpaca-7b", "pythia-12b-mix-sft", "chatglm2-6b", "vicuna-7b-v1.5",
        "wizardlm-13b",
    ),
    (
        "pythia-12b-mix-sft", "chatglm2-6b", "vicuna-7b-v1.5", "wizardlm-13b", "vicuna-13b-v1.5",
        "gpt-3.5-turbo-0301",
    ),
    (
        "vicuna-7b-v1.5", "wizardlm-13b", "vicuna-13b-v1.5", "gpt-3.5-turbo-0301", "gpt4_0613_concise",
        "OpenHermes-2.5-Mistral-7B", "Mixtral-8x7B-Instruct-v0.1_concise",
    ),
)  # fmt: skip
RANKED = 4  # answers to each held-out instruction, from the worst to the best, that students rank


def read_answers() -> list[Judged]:
    """All judged answers."""
    if not JUDGED.exists():
        raise SystemExit(
            f"there is no {JUDGED}: one instruction of AlpacaEval a line, with the answers of "
            'models and their wins, {"instruction", "answers": [{"model", "response", "win"}]}'
        )
    return read_judged(JUDGED)


def draw(judged: Sequence[Judged], seed: int) -> list[Judged]:
    """The instructions of a seed: each with the given answer, then each round's proposal, all different.

    Long ones are left out, and instructions that then lack an answer.
    """
    lots = random.Random(f"real/{seed}")
    drawn = [
        row._replace(answers=answers)
        for row in judged
        if len(row.instruction) <= _LONGEST[0] and (answers := tuple(_draw_answers(row, lots)))
    ]
    return lots.sample(drawn, min(INSTRUCTIONS, len(drawn)))


def _draw_answers(row: Judged, lots: random.Random) -> list[Answer]:
    """The given answer and a proposal for each round; none where one of them cannot be had."""
    answers: list[Answer] = []
    for mix in (GIVEN, *MIXES):
        taken = {answer.response.strip() for answer in answers}
        left = [it for it in _short(row) if it.model in mix and it.response.strip() not in taken]
        if not left:
            return []
        answers.append(lots.choice(left))
    return answers


def _short(row: Judged) -> list[Answer]:
    return [it for it in row.answers if it.response.strip() and len(it.response) <= _LONGEST[1]]


def spread(row: Judged) -> Judged:
    """A row with RANKED of its short answers at most, evenly from the worst verdict to the best."""
    ordered = sorted(_short(row), key=lambda answer: answer.verdict)
    places = sorted({round(step * (len(ordered) - 1) / (RANKED - 1)) for step in range(RANKED)})
    return row._replace(answers=tuple(ordered[place] for place in places if ordered))


def keep_better(row: Judged) -> Iterator[Answer]:
    """The given answer, and the proposals that raise the verdict; others are the same as what is there."""
    best = row.answers[0]
    for answer in row.answers:
        best = answer if answer.verdict > best.verdict else best
        yield best


def write_data(judged: Sequence[Judged], seeds: Iterable[int]) -> None:
    """Data, teacher and oracle of each seed."""
    DATA.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        data, drawn = DATA / f"given-{seed}.json", draw(judged, seed)
        best = [row._replace(answers=tuple(keep_better(row))) for row in drawn]
        for rows, name in ((drawn, "teacher"), (best, "oracle")):
            write_inputs(rows, data, DATA / f"{name}-{seed}.jsonl")


def judge(lineage: LoopReader, config: RunConfig) -> dict[str, float | None]:
    """The figures of a run, round by round, as real_tables names them; behind "0: " those before the first.

    pool is the mean log-odds of its verdicts, pool tokens the mean length of its responses. Of decisions
    where the verdicts differ clearly: raised, accepted ones that raised it; spared, refused ones that spared
    the pool a worse one. The nll is in nats per token, of the best of RANKED answers to each held-out
    instruction. ranks rightly: in percent, of two of them with a clear verdict the better has the lower nll.
    """
    judged = read_answers()
    figures: dict[str, float | None] = {}
    for row in account_for(lineage, Verdicts(judged)):
        round = row["round"]
        written = lineage.held_out_measures().get(round, {}).get("response_tokens")
        student = *_measure_student(lineage, config, judged, round), written.value if written else None
        found = dict(zip(MEASURED, student, strict=True))
        if round:
            found |= dict(zip(POOLED, (row["verdict"], *_describe_pool(lineage, round)), strict=True))
            found |= _count(row, "") | _count(row["at_like_length"], " alike")
        figures |= {f"{round}: {name}": value for name, value in found.items()}
    return figures


def _describe_pool(lineage: LoopReader, round: int) -> tuple[float | None, float | None]:
    """Mean tokens of a round's responses, and the percentage of its proposals that were accepted."""
    counts = [count for count in lineage.count_by_phase() if count["round"] == round]
    decided, accepted = (sum(count[name] for count in counts) for name in ("decided", "accepted"))
    return lineage.round(round)["response_tokens"], 100 * accepted / decided if decided else None


def _count(row: Mapping[str, Any], end: str) -> dict[str, float]:
    """Decisions with a clear verdict, and those of them that were right, from shares."""
    counts: dict[str, float] = {}
    for kind, right in (("accepted", "raised"), ("refused", "spared")):
        counts |= {kind + end: row[kind], right + end: row[kind] * (row[right] or 0.0)}
    return counts


def _measure_student(
    lineage: LoopReader, config: RunConfig, judged: Sequence[Judged], round: int
) -> tuple[float | None, ...]:
    """What `rank` says of a round's student. Its scores are kept: equal students are measured once."""
    student = lineage.round_student(round)
    if student is None:
        return None, None, None
    asked = {pair.instruction for group in lineage.held_out_pairs(100) for pair in group.values()}
    held_out = [spread(row) for row in judged if row.instruction in asked]
    kept = DATA / "students" / f"{content_hash(student.adapter_hash or '', *sorted(asked))}.json"
    if not kept.exists():
        adapter = find_adapter(RunFolder(RUNS / config.name), student)
        kept.parent.mkdir(exist_ok=True)
        with put_into_place(kept) as part:
            part.write_text(json.dumps(_score(config, adapter, held_out)))
    return rank(held_out, json.loads(kept.read_text()))


def _score(config: RunConfig, adapter: Path | None, held_out: Sequence[Judged]) -> list[list[float | None]]:
    """The nll of each answer to each instruction."""
    term = "response_given_instruction"
    settings = config.student.model_copy(update={"threads": 2})
    with Student.open(settings, adapter) as student:
        pairs = [Pair(row.instruction, "", answer.response) for row in held_out for answer in row.answers]
        found = iter(student.score([(pair, term) for pair in pairs]))
        return [[nll({term: next(found)}, term) for _ in row.answers] for row in held_out]


def rank(held_out: Sequence[Judged], nlls: Sequence[Sequence[float | None]]) -> tuple[float | None, ...]:
    """The mean nll of the best answers; how often two are ranked rightly, in percent; at like length.

    Args:
        held_out: instructions with their answers, the best one last.
        nlls: of each answer, in their order.
    """
    best: list[float] = []
    right: list[bool] = []
    right_alike: list[bool] = []
    for row, values in zip(held_out, nlls, strict=True):
        known = [it for it in zip(row.answers, values, strict=True) if it[1] is not None]
        best += [value for value in values[-1:] if value is not None]
        for (one, low), (other, high) in combinations(known, 2):
            gain = one.verdict - other.verdict
            if abs(gain) > CLEAR:
                right.append((gain > 0) == (low < high))
                right_alike += right[-1:] if have_like_length(one.response, other.response) else []
    shares = (percent(statistics.fmean(those)) if those else None for those in (right, right_alike))
    return (statistics.fmean(best) if best else None, *shares)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, of one torch thread each")
    arguments = parser.parse_args()
    experiment = load_experiment(PLAN)
    judged = read_answers()
    write_data(judged, experiment.seeds)
    document = run_plan(PLAN, arguments.jobs)
    publish("A real model", _tell(experiment, document, judged), arguments)


def _worse_shares(judged: Sequence[Judged], seeds: Iterable[int]) -> list[float]:
    """For each round the share of drawn answers that are worse than the one before."""
    rows = [row for seed in seeds for row in draw(judged, seed)]
    return [
        statistics.fmean(row.answers[round].verdict < row.answers[round - 1].verdict for row in rows)
        for round in range(1, len(MIXES) + 1)
    ]


def _tell(experiment: Experiment, document: ExperimentDocument, judged: Sequence[Judged]) -> Iterator[str]:
    """The section: how it was made, what every experiment tells, and by round what the verdicts say."""
    config, seeds = experiment.runs[0].config, experiment.seeds
    worse = ", ".join(f"{share:.0%}" for share in _worse_shares(judged, seeds))
    given = {row.instruction: row for row in judged}
    rows = [spread(given[row.instruction]) for seed in seeds for row in draw(judged, seed)]
    _, longer, alike = rank(rows, [[-len(answer.response) for answer in row.answers] for row in rows])
    yield (
        f"{INSTRUCTIONS} instructions of AlpacaEval a seed, {config.data.holdout} of them held out; seeds "
        f"{document['seeds']}, of which two share about half. No instruction has more than {_LONGEST[0]} "
        f"characters, no answer more than {_LONGEST[1]}. Who answers in which round is in real.py. Verdicts "
        "are GPT-4-turbo's against gpt4_1106_preview, as log-odds. Recorded answers that are worse than the "
        f"one recorded before: {worse} in rounds 1, 2, 3; an oracle's teacher leaves these out. Only phase "
        "response has proposals: the method there is policy r-ifd. Arms of one round are decided by s0 alone."
    )
    yield ""
    yield (
        "A training is about one pass; where answers are long, fewer pairs fit. raised and spared are of "
        "decisions of all seeds whose verdicts differ by more than 1, of like length where characters differ "
        f"by a quarter at most. Students are measured on {RANKED} answers to each held-out instruction, "
        "evenly from the worst verdict to the best: nll of the best, nats per token; ranks rightly: of two "
        "with a clear verdict the better has the lower nll. The longer one is the better in "
        f"{longer:.0f} %, of like length in {alike:.0f} %. answer tokens: of {config.evaluate.answers} "
        f"answers of its own, {config.evaluate.max_tokens} at most. ± is half a 95 % interval over seeds "
        "(Student's t), in brackets is Wilson's, which takes decisions for independent: since seeds share "
        "instructions both are too narrow, and of so many differences one in twenty is off zero by chance."
    )
    yield ""
    yield from (f"- {sentence}" for sentence in explain_experiment(document))
    yield ""
    yield from tabulate_rounds(document)


if __name__ == "__main__":
    main()
