"""Experiments of the benchmarks: a plan run to its end, and its document as lines of a section."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reflectune.loop.show.experiment import explain_experiment, tabulate_experiment
from tests.bench.results import table

__all__ = ["ROOT", "percent", "run_plan", "tell_plan"]

ROOT = Path(__file__).parents[2]


def percent(share: float | None) -> float | None:
    """A share in percent."""
    return None if share is None else 100 * share


def run_plan(plan: Path, jobs: int) -> Any:
    """Run a plan, or go on with it, so many runs at once; returns its ExperimentDocument."""
    command = [sys.executable, "-m", "reflectune.loop.cli", "experiment", str(plan), "--json"]
    done = subprocess.run([*command, "--jobs", str(jobs)], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def tell_plan(document: Any) -> Iterator[str]:
    """All of an experiment's sentences and tables."""
    yield from (f"- {sentence}" for sentence in explain_experiment(document))
    yield ""
    for section in tabulate_experiment(document):
        rows = (" | ".join(map(str, row)) for row in section.rows)
        yield from (f"{section.title}.", "", *table(" | ".join(section.heads), rows))
