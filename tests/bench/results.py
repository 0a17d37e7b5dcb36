"""RESULTS.md: one section a benchmark, each with its date, machine and command.

A benchmark prints its section; with --record it also replaces that section of the file, and no other.
"""

import os
import platform
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import torch

__all__ = ["SHARED", "describe_machine", "options", "publish", "replace_section", "table"]

RESULTS = Path(__file__).with_name("RESULTS.md")
SHARED = Path(__file__).parents[3] / "shared"  # data and models, beside the checkout


def options(description: str | None, *, pairs: int | None = None) -> ArgumentParser:
    """The options that every benchmark has; those over pairs, so many by default, compute with torch."""
    parser = ArgumentParser(description=(description or "").partition("\n")[0])
    if pairs:
        parser.add_argument("--pairs", type=int, default=pairs, help=f"pairs to measure on (default {pairs})")
        parser.add_argument("--threads", type=int, default=2, help="torch's CPU threads (default 2)")
    parser.add_argument("--record", action="store_true", help="put the section into RESULTS.md")
    return parser


def publish(title: str, body: Iterable[str], arguments: Namespace, device: str = "cpu") -> None:
    """Print a benchmark's section, and put it into RESULTS.md where --record asks for that."""
    module = sys.modules["__main__"].__spec__.name
    given = [argument for argument in sys.argv[1:] if argument != "--record"]
    machine = f"{datetime.now(UTC):%Y-%m-%d}. {describe_machine(device)}."
    command = " ".join(["    python -m", module, *given])
    section = "\n".join([machine, "", command, "", *body])
    print(f"## {title}\n\n{section}")
    if arguments.record:
        RESULTS.write_text(replace_section(RESULTS.read_text(), title, section))


def replace_section(text: str, title: str, body: str) -> str:
    """A Markdown text with the section under "## title" replaced; a new one goes to the end."""
    intro, *rest = text.split("\n## ")
    sections = {section.partition("\n")[0]: section.strip("\n") for section in rest}
    sections[title] = f"{title}\n\n{body.strip()}"
    return "\n\n## ".join([intro.strip("\n"), *sections.values()]) + "\n"


def table(header: str, rows: Iterable[str]) -> list[str]:
    """Lines of a Markdown table; header and rows are given as cells with " | " between them."""
    rule = " | ".join(["---"] * len(header.split("|")))
    return [*(f"| {row} |" for row in (header, rule, *rows)), ""]


def describe_machine(device: str = "cpu") -> str:
    """One line: processor or GPU, visible CPUs, memory, torch, threads, and how busy all of it is."""
    parts = []
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        parts.append(f"{gpu.name} with {gpu.total_memory / 2**30:.0f} GiB")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts += [
        f"{_processor()}, {len(os.sched_getaffinity(0))} CPUs visible, {memory:.0f} GiB",
        f"Python {platform.python_version()}, torch {torch.__version__}",
        f"torch threads: {torch.get_num_threads()}",
        f"load average at the end: {os.getloadavg()[0]:.1f}",
    ]
    return "; ".join(parts)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {name.strip(): value.strip() for name, value in facts.items()}
    model = f"family {names.get('cpu family')}, model {names.get('model')}"
    return f"{names.get('model name', platform.machine())} ({model})"
