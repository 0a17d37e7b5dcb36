"""What a run's teacher will be asked and may cost, before it starts.

Asks no teacher, opens no student's weights and writes nothing. The student's tokenizer stands in for the
teacher's, and the given pairs for those of later rounds.
"""

import random
import statistics
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.agents.student.templates import check_student
from reflectune.agents.teacher.engines import ENGINES
from reflectune.agents.teacher.prompts import Prompts, make_nonce, open_prompts
from reflectune.agents.tokenizers import open_tokenizer
from reflectune.loop.show.terminal.layout import tabulate
from reflectune.state.config import RunConfig, TeacherConfig
from reflectune.state.config.prices import find_prices
from reflectune.state.data.datasets import assign_samples, read_dataset
from reflectune.state.records import PHASES, Pair, Phase

__all__ = ["estimate_run", "render_estimate"]

# Pairs whose prompts are measured.
_MAX_MEASURED = 200
_ASSUMPTIONS = (
    "tokens are counted by the student's tokenizer, a stand-in for the teacher's",
    "an answer is as long as the texts that it replaces, and its critique is as long again",
    "pairs of later rounds are as long as the given ones",
    "no call is repeated and no pair is frozen",
)
_CACHE_ASSUMPTIONS = {
    "on": "the cache has none of the answers yet",
    "only": "the cache has every answer, and none of them costs anything",
}


def estimate_run(config: RunConfig) -> dict[str, Any]:
    """Calls, tokens and cost of a whole run, as `estimate --json` prints them.

    Every round asks for `candidates` proposals for each training pair in each phase, but for no instruction
    that later turns depend on. Tokens of a call are means over up to 200 pairs drawn by the run's seed; an
    answer has at most `max_tokens`. A budget is not taken into account. `most_calls` is with every retry,
    `cost_usd` None where a price is unknown; `prices` are USD per million tokens, and where they are written.
    """
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
        measured = [pairs[position] for position in drawn[phase]]
        return _measure_phase(teacher, structured, prompts, measured, phase, count)

    kind = ENGINES[teacher.engine]
    structured = teacher.structured and kind.takes_schemas(thinking=config.student.thinking)
    per_pair = teacher.candidates * config.rounds
    phases: dict[str, dict[str, Any]] = {
        phase: measure(phase) | {"calls": len(asked[phase]) * per_pair} for phase in PHASES
    }
    calls = sum(phase["calls"] for phase in phases.values())
    prompt_tokens, completion_tokens = (
        round(sum(phase["calls"] * phase[name] for phase in phases.values()))
        for name in ("prompt_tokens", "completion_tokens")
    )
    cache = teacher.cache if kind.is_cached else "off"
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
        "phases": phases,
        "measured_pairs": min(given, _MAX_MEASURED),
        "tokenizer": config.student.model,
        "assumptions": [*_ASSUMPTIONS, *([_CACHE_ASSUMPTIONS[cache]] if cache != "off" else [])],
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
        Text(f"An estimate from {document['measured_pairs']} pairs. It assumes:", style="dim"),
        *(Text(f"- {assumption}", style="dim") for assumption in document["assumptions"]),
    )


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
