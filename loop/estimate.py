"""What a run's teacher will be asked and may cost, and how long it takes on given GPUs, before it starts.

Asks no teacher, opens no student's weights and writes nothing. The student's tokenizer stands in for the
teacher's, and the given pairs for those of later rounds.
"""

import random
import statistics
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import filesize
from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.agents.model_size import measure_size
from reflectune.agents.student.templates import check_student
from reflectune.agents.teacher.prompts import Prompts, make_nonce, open_prompts
from reflectune.agents.tokenizers import open_tokenizer
from reflectune.loop.planning import Hours, Lengths, Plan, TeacherLoad, find_gpus, plan_run, scored_tokens
from reflectune.loop.show.numbers import format_seconds
from reflectune.loop.show.terminal.layout import tabulate
from reflectune.state.config import SELF, RunConfig, StudentConfig, TeacherConfig
from reflectune.state.config.prices import find_prices
from reflectune.state.data.datasets import assign_samples, read_dataset
from reflectune.state.policies import find_policy
from reflectune.state.records import PHASES, Pair, Phase

__all__ = ["estimate_run", "render_estimate"]

# Pairs whose prompts are measured.
_MAX_MEASURED = 200
_ASSUMPTIONS = (
    "tokens are counted by the student's tokenizer, a stand-in for the teacher's",
    "an answer is as long as the texts that it replaces, and its critique is as long again",
    "pairs of later rounds are as long as the given ones",
    "no call is repeated and no pair is frozen",
    "every pair is trained on, and every score that a decision rests on is computed anew",
    "the student reads no more than the pairs: its template's own words are not counted",
    "the disk holds each answer twice, a third time in cache.db, and 2.5 kB of rows and indexes a call",
)
# Of a token of an answer, and of the rows that come of one call: its own, a version, scores and a decision.
_TOKEN_BYTES, _ROW_BYTES = 4.5, 2500
_PLAN_ASSUMPTIONS = (
    "a round's parts follow each other, with no overlap; opening models and held-out measures take no time",
    "GPUs reach 40 % of their FLOPs in scoring, 30 % in training and 50 % of their bandwidth in decoding",
)
_CACHE_ASSUMPTIONS = {
    "on": "the cache has none of the answers yet",
    "only": "the cache has every answer, and none of them costs anything",
}


def estimate_run(config: RunConfig, on: str | None = None) -> dict[str, Any]:
    """Calls, tokens and cost of a whole run, as `estimate --json` prints them.

    Every round asks for `candidates` proposals for each training pair in each phase, but for no instruction
    that later turns depend on. Tokens of a call are means over up to 200 pairs drawn by the run's seed; an
    answer has at most `max_tokens`. A budget is not taken into account. `most_calls` is with every retry,
    `cost_usd` None where a price is unknown; `prices` are USD per million tokens, and where they are written.
    `student_tokens` are those it reads, in scoring and in training, prompts included. `disk_gb` is of
    lineage, index and cache, not of adapters. `plan` is None unless `on` names GPUs, such as "8xH100".

    Raises:
        ConfigError: nobody knows these GPUs.
    """
    if on is not None:
        find_gpus(on)
    teacher = config.teacher
    prompts = open_prompts(None if teacher.prompts is None else Path(teacher.prompts))
    prices = find_prices(teacher)
    check_student(config.student)
    dataset = read_dataset(config.data)
    asked: dict[Phase, array[int]] = {phase: array("L") for phase in PHASES}  # positions
    for sample in assign_samples(dataset, config.data.holdout, config.seed):
        if sample.split == "train":
            asked["response"].append(sample.position)
            if not sample.is_followed:
                asked["instruction"].append(sample.position)
    given = len(asked["response"])
    drawn = {
        phase: random.Random(f"{config.seed}/estimate").sample(positions, min(len(positions), _MAX_MEASURED))
        for phase, positions in asked.items()
    }
    wanted = {position for positions in drawn.values() for position in positions}
    pairs = {position: record.pair for position, record in enumerate(dataset) if position in wanted}
    tokenizer = open_tokenizer(config.student)

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def measure(phase: Phase) -> dict[str, float]:
        given = [pairs[position] for position in drawn[phase]]
        return _measure_phase(teacher, structured, prompts, given, phase, count)

    measured = [pairs[position] for position in drawn["response"]]
    lengths = Lengths(
        statistics.fmean(count("\n".join(filter(None, (pair.instruction, pair.input)))) for pair in measured),
        statistics.fmean(count(pair.response) for pair in measured),
    )
    samples = {phase: len(positions) for phase, positions in asked.items()}
    structured = teacher.structured and teacher.takes_schemas(thinking=config.student.thinking)
    per_pair = teacher.candidates * config.rounds
    phases: dict[str, dict[str, Any]] = {
        phase: measure(phase) | {"calls": len(asked[phase]) * per_pair} for phase in PHASES
    }
    calls = sum(phase["calls"] for phase in phases.values())
    prompt_tokens, completion_tokens = (
        round(sum(phase["calls"] * phase[name] for phase in phases.values()))
        for name in ("prompt_tokens", "completion_tokens")
    )
    cache = teacher.cache if teacher.is_cached else "off"
    student_tokens = _student_tokens(config, lengths, samples)
    answers = completion_tokens * _TOKEN_BYTES * (2 + (cache == "on"))
    cost = 0.0 if cache == "only" else None
    if cost is None and prices is not None:
        cost = prices.cost(prompt_tokens, completion_tokens)
    return {
        "name": config.name,
        "samples": given,
        "rounds": config.rounds,
        "candidates": teacher.candidates,
        "calls": calls,
        "most_calls": calls * teacher.attempts,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "cost_usd": cost,
        "prices": None if prices is None else asdict(prices),
        "student_tokens": student_tokens,
        "disk_gb": (answers + calls * _ROW_BYTES) / 1e9,
        "phases": phases,
        "plan": None if on is None else _plan(config, on, phases, samples["response"], student_tokens),
        "measured_pairs": min(given, _MAX_MEASURED),
        "tokenizer": config.student.model,
        "assumptions": [
            *_ASSUMPTIONS,
            *([_CACHE_ASSUMPTIONS[cache]] if cache != "off" else []),
            *(["the judge's calls come on top, and what they cost"] if config.judge is not None else []),
            *(_PLAN_ASSUMPTIONS if on is not None else ()),
        ],
    }


def render_estimate(document: dict[str, Any]) -> RenderableType:
    """The estimate as a terminal shows it."""
    rows = (
        (name, f"{phase['calls']:,d}", f"{phase['prompt_tokens']:.0f}", f"{phase['completion_tokens']:.0f}")
        for name, phase in document["phases"].items()
    )
    head = (
        f"{document['name']}: {document['samples']:,d} pairs, {document['rounds']} rounds, "
        f"proposals per pair and phase: {document['candidates']}"
    )
    totals = (
        f"{document['calls']:,d} calls (at most {document['most_calls']:,d} with every retry), "
        f"{document['prompt_tokens']:,d} prompt and {document['completion_tokens']:,d} completion tokens"
    )
    usd, prices = document["cost_usd"], document["prices"]
    cost = "unknown; set the teacher's prices" if usd is None else f"USD {usd:,.2f}"
    if prices is not None:
        each = f"{prices['prompt']:g} for prompts and {prices['completion']:g} for answers"
        cost += f"; USD per million tokens: {each}, from {prices['source']}"
    return Group(
        Text(head, style="bold"),
        tabulate(("phase", "calls", "tokens of a prompt", "tokens of an answer"), rows),
        Text(f"total: {totals}"),
        Text(f"cost: {cost}"),
        Text(
            f"student: {document['student_tokens']['scored']:,d} tokens scored, "
            f"{document['student_tokens']['trained']:,d} trained on; "
            f"disk: {filesize.decimal(round(1e9 * document['disk_gb']))} and the adapters"
        ),
        *(Text(line) for line in _plan_lines(document["plan"])),
        Text(f"An estimate from {document['measured_pairs']} pairs. It assumes:", style="dim"),
        *(Text(f"- {assumption}", style="dim") for assumption in document["assumptions"]),
    )


def _student_tokens(config: RunConfig, lengths: Lengths, samples: Mapping[Phase, int]) -> dict[str, int]:
    """What the student reads over the whole run."""
    given, training = samples["response"], config.refinetune
    scored = scored_tokens(
        find_policy(config.selection.policy),
        lengths,
        config.teacher.candidates,
        follows=1 - samples["instruction"] / given,
    )
    trained = training.tokens or (training.epochs or 0) * given * (lengths.instruction + lengths.response)
    trained *= 1 + config.selection.cross_fit  # two halves more
    return {"scored": round(config.rounds * given * scored), "trained": round(config.rounds * trained)}


def _plan(
    config: RunConfig,
    on: str,
    phases: dict[str, dict[str, Any]],
    samples: int,
    student_tokens: Mapping[str, int],
) -> Plan:
    """The run's rounds on given GPUs."""
    teacher = config.teacher
    load = None
    if teacher.is_local:
        own = StudentConfig(model=teacher.model or "", revision=teacher.revision, dtype=teacher.dtype)
        calls = sum(phase["calls"] for phase in phases.values())
        prompt_tokens, completion_tokens = (
            sum(phase["calls"] * phase[name] for phase in phases.values()) / max(calls, 1)
            for name in ("prompt_tokens", "completion_tokens")
        )
        load = TeacherLoad(
            size=measure_size(config.student if teacher.model == SELF else own),
            calls=calls / config.rounds,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            at_once=teacher.capacity,
            gpus=teacher.tensor_parallel_size if teacher.engine == "vllm" else 1,
        )
    return plan_run(
        on,
        student=measure_size(config.student),
        teacher=load,
        rounds=config.rounds,
        samples=samples,
        tokens_per_sample=student_tokens["scored"] / (config.rounds * samples),
        trained_tokens=student_tokens["trained"] / config.rounds,
        recomputes=config.refinetune.gradient_checkpointing,
    )


def _plan_lines(plan: Plan | None) -> list[str]:
    """What a terminal shows of a plan."""
    if plan is None:
        return []
    each, run, scale = plan["hours_per_round"], plan["hours"], plan["scale"]
    server = "does not fit" if plan["teacher_gb"] else "by its server or recording"

    def tell(part: float | None, unknown: str) -> str:
        if part is None:
            return unknown
        return "under a second" if part * 3600 < 1 else format_seconds(part * 3600)

    def times(parts: Hours) -> str:
        return (
            f"teacher {tell(parts['teacher'], server)}, scoring {tell(parts['scoring'], 'does not fit')}, "
            f"training {tell(parts['training'], 'does not fit')}"
        )

    teacher = "" if plan["teacher_gb"] is None else f", of the teacher {plan['teacher_gb']:,.1f} GB"
    keys = ", ".join(f"{key} = {number}" for key, number in scale.items() if number is not None)
    rate = plan["samples_per_second"]
    lines = [
        f"on {plan['on']}, {plan['gpu']['memory_gb']:g} GB each: "
        f"weights of the student {plan['student_gb']:,.1f} GB{teacher}",
        f"time per round: {times(each)}",
        f"time of the run: {times(run)}",
    ]
    if rate is not None:
        lines.append(f"scored per second: {_round(rate)} samples, both phases together")
    return lines + ([f"in [scale]: {keys}"] if keys else [])


def _round(number: float) -> str:
    """A number to three digits, never as a power of ten where it is large."""
    rounded = float(f"{number:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def _measure_phase(
    teacher: TeacherConfig,
    structured: bool,
    prompts: Prompts,
    pairs: Sequence[Pair],
    phase: Phase,
    count: Callable[[str], int],
) -> dict[str, float]:
    """Mean tokens of a call's prompt and answer."""
    prompt_tokens, completion_tokens = [], []
    for pair in pairs:
        messages = prompts.messages(phase, pair, structured=structured, nonce=make_nonce(pair, phase))
        prompt_tokens.append(sum(count(str(message["content"])) for message in messages))
        # What an answer writes anew; a new instruction takes its input in.
        replaced = [pair.response] if phase == "response" else [pair.instruction, pair.input, pair.response]
        text = "\n".join(filter(None, replaced))
        completion_tokens.append(min(2 * count(text), teacher.max_tokens))
    return {
        "prompt_tokens": statistics.fmean(prompt_tokens or [0.0]),
        "completion_tokens": statistics.fmean(completion_tokens or [0.0]),
    }
