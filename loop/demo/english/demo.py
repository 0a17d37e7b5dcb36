"""The run of the demo in English: weak models' answers, better and worse ones proposed, a real student.

The teacher is a recording, which leaves instructions as they are. The verdicts are kept from the run; they
are for what is told of it at the end.
"""

import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from reflectune.loop.demo import POLICY
from reflectune.loop.demo.closing import close
from reflectune.loop.demo.english import MODEL, ROUNDS
from reflectune.loop.demo.english.account import (
    describe_rounds,
    raised_sample,
    render_account,
    render_rise,
)
from reflectune.loop.demo.english.verdicts import Verdicts, leave_instructions, read_judged, write_inputs
from reflectune.loop.demo.opening import find_or_create, name_run
from reflectune.state.config import RunConfig, load_begun_config, load_config
from reflectune.state.errors import ConfigError, StudentError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import PolicyName

__all__ = ["ANSWERS", "conclude", "demo_config", "open_demo"]

FOLDER = Path(__file__).parent
ANSWERS = FOLDER / "answers.jsonl"


def open_demo(
    runs: Path, *, model: str = MODEL, rounds: int = ROUNDS, policy: PolicyName = POLICY, seed: int = 0
) -> RunFolder:
    """Find the run of such a demo, or create it; its data and recording stand beside the run's folder.

    A ConfigError where the run is another model's, a StudentError where the model cannot be opened.
    """
    changes = {
        f"{rounds}-rounds": rounds != ROUNDS,
        policy.replace("+", "-"): policy != POLICY,
        f"seed-{seed}": seed != 0,
    }
    name = name_run("demo-english", changes)
    data, recording = runs / f"{name}.json", runs / f"{name}.jsonl"
    config = demo_config(name, data, recording, model=model, rounds=rounds, policy=policy, seed=seed)
    try:
        folder = find_or_create(runs, config, [data, recording], _write)
    except StudentError as error:
        raise StudentError(f"{error} (the student is named by --model)") from error
    begun = load_begun_config(folder.config).student.model
    if begun != config.student.model:
        raise ConfigError(
            f"{folder.path} is of the model {begun}; name it by --model, or other runs by --runs"
        )
    return folder


def _write(data: Path, recording: Path) -> None:
    judged = read_judged(ANSWERS)
    write_inputs(judged, data, recording)
    leave_instructions(judged, recording)


def demo_config(
    name: str, data: Path, recording: Path, *, model: str, rounds: int, policy: PolicyName, seed: int
) -> RunConfig:
    """The configuration of a run over its data and its recorded teacher."""
    settings = {
        "name": name,
        "rounds": rounds,
        "seed": seed,
        "data.path": data.absolute(),
        "teacher.path": recording.absolute(),
        "student.model": json.dumps(model),  # a text, whatever it looks like
        "selection.policy": policy,
    }
    return load_config(FOLDER / "config.toml", [f"{key}={value}" for key, value in settings.items()])


def conclude(folder: RunFolder) -> tuple[dict[str, Any], RenderableType]:
    """What a run has shown, as JSON has it and as a terminal does, with a story and what to do next."""
    verdicts = Verdicts(read_judged(ANSWERS))
    with LineageReader.open(folder.lineage) as lineage:
        rounds = describe_rounds(lineage, verdicts)
        rise, trace = raised_sample(lineage, verdicts) or (None, None)
    account = render_account(rounds)
    shown = account if rise is None else Group(account, render_rise(rise))
    document = {"name": folder.path.name, "rounds": rounds, "rise": rise, "trace": trace}
    model = load_begun_config(folder.config).student.model
    return document, close(folder, shown, trace, f"demo-english --model {shlex.quote(model)}", ROUNDS)
