"""What agents/README.md says about clusters: its commands are ones that there are, its scripts run."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from reflectune.loop.cli import app
from reflectune.state.config.reference import list_keys
from tests.reference import ROOT

SECTION = (
    (ROOT / "agents/README.md").read_text(encoding="utf-8").split("## On a cluster")[1].split("\n## ")[0]
)
BLOCKS = re.findall(r"```(bash|yaml)\n(.*?)```", SECTION, re.DOTALL)
SCRIPTS = [text for language, text in BLOCKS if language == "bash"]
SLURM = next(script for script in SCRIPTS if "#SBATCH" in script)
JOB = next(yaml.safe_load(text) for language, text in BLOCKS if language == "yaml")


def lines_of(program: str) -> list[list[str]]:
    """The words of each line that runs a program, from the program on."""
    text = "\n".join((*SCRIPTS, JOB["spec"]["entrypoint"])).replace("\\\n", " ")
    split = [shlex.split(line, comments=True) for line in text.splitlines() if not line.startswith("export")]
    return [words[words.index(program) :] for words in split if program in words]


def test_commands_of_reflectune_have_options_and_keys_that_there_are() -> None:
    commands: Any = typer.main.get_command(app)
    keys = {key.key for key in list_keys()}
    found = lines_of("reflectune")
    assert len(found) == 4
    for _, name, *words in found:
        options = {option for each in commands.commands[name].params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= options
        settings = [word for before, word in itertools.pairwise(words) if before == "--set"]
        assert settings
        assert {setting.partition("=")[0] for setting in settings} <= keys


@pytest.mark.slow
def test_commands_of_ray_have_options_that_there_are() -> None:
    scripts = pytest.importorskip("ray.scripts.scripts", reason="ray is not installed")
    symmetric = pytest.importorskip("ray.scripts.symmetric_run", reason="ray is not installed")
    options = {
        name: {option for each in command.params for option in each.opts}
        for name, command in {
            "start": scripts.start,
            "stop": scripts.stop,
            "symmetric-run": symmetric.symmetric_run,
        }.items()
    }
    found = lines_of("ray")
    assert [words[1] for words in found] == ["start", "start", "stop", "symmetric-run"]
    for _, name, *words in found:
        given = words[: words.index("--")] if "--" in words else words
        assert {word.partition("=")[0] for word in given if word.startswith("--")} <= options[name]
    head = JOB["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]
    assert {f"--{name}" for name in head} <= options["start"]


def test_script_for_slurm_starts_the_same_command_on_every_node(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    for name, does in {
        "scontrol": 'printf "localhost\\nn2\\n"',
        "srun": 'printf "%s\\n" "$@"',
        "openssl": "echo 5ec7e7",
    }.items():
        (tmp_path / name).write_text(f"#!{bash}\n{does}\n")
        (tmp_path / name).chmod(0o755)
    given = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "n",
        "SLURM_JOB_NUM_NODES": "2",
    }
    done = subprocess.run([bash], input=SLURM, env=given, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[:6] == ["ray", "symmetric-run", "--address", "127.0.0.1:6379", "--min-nodes", "2"]
    assert words[6:10] == ["--", "reflectune", "run", "config.toml"]
    assert "scale.address=127.0.0.1:6379" in words


def test_job_for_kubernetes_gives_workers_the_gpus_and_the_head_the_runs() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    cluster = JOB["spec"]["rayClusterSpec"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    (group,) = cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert head["image"] == worker["image"]
    assert group["replicas"] * int(worker["resources"]["limits"]["nvidia.com/gpu"]) == 16
    assert "scale.students=16" in JOB["spec"]["entrypoint"].split()
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert JOB["spec"]["entrypoint"].split()[2].startswith(head["volumeMounts"][0]["mountPath"])
