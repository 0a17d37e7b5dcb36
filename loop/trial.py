"""Asks a run's teacher about the first pairs of its data before the run starts, and shows what comes of it.

The questions are those that the run's first round begins with: where answers are kept, none is paid again.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.agents.machines import open_machines
from reflectune.agents.teacher.engines import TeacherModel
from reflectune.agents.teacher.prompts import open_prompts
from reflectune.agents.teacher.teacher import Reflected, Teacher, check_teacher, open_teacher
from reflectune.loop.progress import open_display
from reflectune.loop.run import listen, open_cache
from reflectune.loop.show.numbers import format_usd
from reflectune.loop.show.terminal.layout import Field
from reflectune.state.config import RunConfig
from reflectune.state.data.datasets import assign_samples, read_dataset
from reflectune.state.errors import ReflectuneError
from reflectune.state.records import PHASES, Reflection, Sample
from reflectune.state.text import inert_document

__all__ = ["render_trial", "try_teacher"]


def try_teacher(config: RunConfig, runs: Path, pairs: int) -> dict[str, Any]:
    """What the teacher makes of the first training pairs, as they are given, in both phases.

    Returns:
        asked: for each question its position and phase, and of the last answer to it prompt, status, error,
            text, critique, instruction and response (None where none was proposed), tokens, cost, seconds.
        parameters: by name of what a server was sent, whether it takes it; empty where nobody was asked.
        error: why not all of them were asked; None where they were.
    """
    asked: list[dict[str, Any]] = []
    parameters: dict[str, bool] = {}
    error: str | None = None
    try:
        teacher_config = config.teacher
        if teacher_config.engine == "batch":  # which may take a day; what is answered at once counts as much
            teacher_config = teacher_config.model_copy(update={"engine": "openai"})
        check_teacher(teacher_config)
        dataset = read_dataset(config.data)
        open_prompts(config.teacher.prompts).check(record.pair for record in dataset)
        samples = assign_samples(dataset, config.data.holdout, config.seed)
        chosen = list(islice((sample for sample in samples if sample.split == "train"), pairs))
        with open_cache(config, runs) as cache, open_machines(config, listen(open_display())) as machines:
            model = TeacherModel("self:s0", machines.settle_student())
            with open_teacher(
                teacher_config, config.seed, model, cache, open_engine=machines.open_engine
            ) as teacher:
                try:
                    _ask(teacher, chosen, asked)
                finally:
                    parameters = teacher.parameters
    except ReflectuneError as fault:
        error = str(fault)
    return {"asked": asked, "parameters": parameters, "error": error}


def _ask(teacher: Teacher, samples: Sequence[Sample], asked: list[dict[str, Any]]) -> None:
    """Ask about samples in both phases; what came of each question goes into `asked`, in their order."""
    positions = {sample.id: sample.position for sample in samples}
    reflections = [
        Reflection(sample.id, sample.id, sample.pair, 1, phase, 0)
        for sample in samples
        for phase in PHASES
        if not (phase == "instruction" and sample.is_followed)  # which the run does not ask either
    ]
    answers: dict[tuple[str, str], Reflected] = {}
    try:
        with open_display().stage("check · teacher", total=len(reflections)) as stage:
            stage.watch(teacher.workers, lambda: teacher.waiting)
            for group in teacher.reflect(reflections):
                answers |= {(call.sample_id, call.phase): (call, version) for call, version in group}
                stage.update(len(answers), len(reflections))
    finally:  # what was answered before a fault was paid for
        for each in reflections:
            if made := answers.get((each.sample_id, each.phase)):
                # Only now is it known whether the server takes schemas, which the prompt follows.
                prompt = teacher.prompt(replace(each, attempts=made[0].attempt - 1))
                place = {"position": positions[each.sample_id], "phase": each.phase, "prompt": prompt}
                asked.append(place | _tell(made))


def _tell(made: Reflected) -> dict[str, Any]:
    call, version = made
    names = (
        "attempt", "status", "error", "text", "critique", "prompt_tokens", "completion_tokens", "cost_usd",
        "seconds", "cached",
    )  # fmt: skip
    pair = None if version is None else version.pair
    proposed = {name: pair and getattr(pair, name) for name in ("instruction", "response")}
    return {name: getattr(call, name) for name in names} | proposed


def render_trial(document: dict[str, Any]) -> RenderableType:
    """The same as a terminal shows it."""
    document = inert_document(document)
    parts: list[RenderableType] = []
    for one in document["asked"]:
        tokens = " + ".join("?" if one[name] is None else f"{one[name]:,d}" for name in _TOKENS)
        price = "" if one["cost_usd"] is None else f", {format_usd(one['cost_usd'])}"
        head = f"teacher · pair {one['position']} · {one['phase']}: {one['status']}"
        source = "from the cache" if one["cached"] else f"attempt {one['attempt']}, {one['seconds']:.1f} s"
        parts.append(Text(f"{head} ({tokens} tokens{price}, {source})", style="bold"))
        shown = ("error", "prompt", "text", "critique", "instruction", "response")
        parts += [Field(_NAMES.get(name, name), one[name]) for name in shown if one[name]]
    for verb, taken in (("takes", True), ("does not take", False)):
        if names := [name for name, is_taken in document["parameters"].items() if is_taken is taken]:
            parts.append(Text(f"the server {verb}: {', '.join(names)}"))
    if document["asked"] and all(one["cached"] for one in document["asked"]):
        parts.append(Text("all from the cache: nobody was asked; `--set teacher.cache=off` asks"))
    if document["error"]:
        parts.append(Text(f"the teacher could not be tried: {document['error']}", style="bold"))
    return Group(*parts)


_TOKENS = ("prompt_tokens", "completion_tokens")
_NAMES = {"text": "answer", "instruction": "new instr.", "response": "new resp."}  # they fit a field's column
