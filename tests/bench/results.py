"""RESULTS.md: one section a benchmark, each with its date, machine and command.

A benchmark prints its section; with --record it also replaces that section of the file, and no other.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.machine import describe_machine

__all__ = ["RESULTS", "SHARED", "options", "publish", "replace_section", "table"]

RESULTS = Path(__file__).with_name("RESULTS.md")
SHARED = Path(__file__).parents[3] / "shared"  # data and models, beside the checkout

_PREAMBLE = """# Benchmarks

Every section was measured by the command it names, on the machine it names, and is replaced as a whole by
the next run of that command. `make bench` runs all that need no GPU, `make bench-gpu` the one that does.
"""


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
    specification = sys.modules["__main__"].__spec__
    module = specification.name if specification else Path(sys.argv[0]).stem
    given = [argument for argument in sys.argv[1:] if argument != "--record"]
    heading = [
        f"{datetime.now(UTC):%Y-%m-%d}. {describe_machine(device)}.",
        "",
        f"    {' '.join(['python -m', module, *given])}",
        "",
    ]
    section = "\n".join([*heading, *body])
    print(f"## {title}\n\n{section}")
    if arguments.record:
        before = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else _PREAMBLE
        RESULTS.write_text(replace_section(before, title, section), encoding="utf-8")


def replace_section(text: str, title: str, body: str) -> str:
    """A Markdown text with the section under "## title" replaced; a new one goes to the end."""
    sections = text.split("\n## ")
    added = f"{title}\n\n{body.strip()}\n"
    places = [place for place, section in enumerate(sections) if section.partition("\n")[0] == title]
    if places:
        sections[places[0]] = added
    else:
        sections.append(added)
    return "\n\n## ".join(section.strip("\n") for section in sections) + "\n"


def table(header: str, rows: Iterable[str]) -> list[str]:
    """Lines of a Markdown table; header and rows are given as cells with " | " between them."""
    rule = " | ".join(["---"] * len(header.split("|")))
    return [*(f"| {row} |" for row in (header, rule, *rows)), ""]
