"""A small world on disk for whole runs: a tiny random student, a dataset, a recording, a config."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from reflectune.loop.cli import main

ROOT = Path(__file__).parent.parent
COLOURS = ("red", "green", "blue", "black", "white", "grey", "brown", "pink")


def make_records(count: int) -> list[dict[str, str]]:
    """Alpaca records; every third has an input."""
    return [
        {
            "instruction": f"Name {index} things that are {COLOURS[index % len(COLOURS)]}.",
            "input": f"Only things of size {index}." if index % 3 == 0 else "",
            "output": f"Thing {index} is {COLOURS[index % len(COLOURS)]}.",
        }
        for index in range(count)
    ]


def make_conversations(records: Sequence[Mapping[str, str]], exchanges: int) -> list[dict[str, Any]]:
    """The same pairs as the exchanges of conversations, so many in each, with a system message."""
    messages = [
        [
            {"role": "user", "content": "\n".join(filter(None, (record["instruction"], record["input"])))},
            {"role": "assistant", "content": record["output"]},
        ]
        for record in records
    ]
    system = {"role": "system", "content": "You count things."}
    starts = range(0, len(records), exchanges)
    return [{"messages": sum(messages[start : start + exchanges], [system])} for start in starts]


def make_recording(records: list[dict[str, str]], phases: tuple[str, ...]) -> list[dict[str, object]]:
    """Proposals of two rounds for whatever may be the incumbent; one record in ten has none."""
    entries: list[dict[str, object]] = []
    for index, record in enumerate(records):
        if index % 10 == 9:
            continue
        given = {key: record[key] for key in ("instruction", "input")}
        rewritten = {
            round: {"instruction": f"List {index} things, attempt {round}.", "input": ""} for round in (1, 2)
        }
        for round in (1, 2):
            if "instruction" in phases:
                proposal = {
                    "new_instruction": rewritten[round]["instruction"],
                    "new_response": f"There are {index} of them after {round} rounds.",
                }
                for asked in (given, rewritten[1]):
                    entries.append({"phase": "instruction", "round": round, **asked, **proposal})
            if "response" in phases:
                answer = f"Here are {index} things: the first is a thing, number {round} is another."
                for asked in (given, *rewritten.values()):
                    entries.append({"phase": "response", "round": round, **asked, "new_response": answer})
    return entries


def write_world(
    folder: Path,
    *,
    samples: int = 40,
    exchanges: int = 1,
    phases: tuple[str, ...] = ("instruction", "response"),
    **sections: Mapping[str, Any],
) -> Path:
    """Write everything a run needs into a folder.

    Args:
        folder: where to; made if missing.
        samples: pairs in the dataset.
        exchanges: of a record; more than one make it a conversation.
        phases: phases that the recording answers.
        sections: config sections whose keys are added, replaced, or with None removed.

    Returns:
        The config file.
    """
    import tomli_w

    from tests.tiny_models import save_tiny_llama

    folder.mkdir(parents=True, exist_ok=True)
    save_tiny_llama(folder / "student")
    records = make_records(samples)
    given = records if exchanges == 1 else make_conversations(records, exchanges)
    (folder / "data.json").write_text(json.dumps(given))
    recording = make_recording(records, phases)
    (folder / "teacher.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in recording))
    config: dict[str, Any] = {
        "name": "tiny",
        "rounds": 2,
        "data": {"path": "data.json", "holdout": 6},
        "teacher": {"engine": "recorded", "path": "teacher.jsonl"},
        "student": {"model": "student", "template": "plain", "max_length": 256, "threads": 1},
        # A random student's measures mean nothing; the loop must turn all the same.
        "selection": {"train_max_ifd": 1e6, "train_max_r_ifd": 1e6},
        "refinetune": {"r": 4, "alpha": 8, "lr": 1e-2, "epochs": 2, "batch_tokens": 512},
        "evaluate": {"max_tokens": 8},
    }
    for name, section in sections.items():
        merged = config.get(name, {}) | section
        config[name] = {key: value for key, value in merged.items() if value is not None}
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(config))
    return path


def reflectune(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, in a folder, and hand back what a shell would: code, output, errors.

    A process that loads the model libraries takes longer to start than a tiny world to run. Where it must be
    one all the same there is `run_process`; to kill it, or for a terminal, `command` in `child_environment`.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        for key, value in ({"HF_HUB_OFFLINE": "1"} | environment).items():
            patch.setenv(key, value)
        code = invoke(*arguments)
    return subprocess.CompletedProcess([*map(str, arguments)], code, _written(out), _written(err))


def run_process(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=child_environment(**environment),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def invoke(*arguments: object) -> int:
    """Run the command in this process, with its output wherever it goes now, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ):
        patch.setattr("sys.argv", ["reflectune", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
    return int(stop.value.code or 0)


def command(*arguments: object) -> list[str]:
    """What starts the command in a process of its own."""
    return [sys.executable, "-m", "reflectune.loop.cli", *map(str, arguments)]


def child_environment(**changes: str) -> dict[str, str]:
    """The environment of such a process: this checkout, offline."""
    return (
        os.environ
        | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{ROOT / '.packages'}{os.pathsep}{ROOT}"}
        | changes
    )


def copy_world(world: Path, to: Path) -> Path:
    """A copy of a shared world, to be changed: its config names all files by their place in the folder."""
    return shutil.copytree(world, to, dirs_exist_ok=True)


def _written(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
