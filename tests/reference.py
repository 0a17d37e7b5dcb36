"""The tables of commands, policies and config keys in the folders' READMEs, written from the code.

python -m tests.reference
"""

import re
from collections.abc import Iterator
from pathlib import Path

import typer
from typer._click.core import Context

from reflectune.loop.cli import app
from reflectune.loop.experiments.plan import Arm, Plan
from reflectune.state.config.reference import list_keys
from reflectune.state.policies import POLICIES, Measure
from reflectune.state.records import PHASES, Term

ROOT = Path(__file__).parent.parent
# Options that most commands have: the page says so once.
SHARED = ("--runs <path>", "--json")
# Of an instruction x and its response y.
_TERMS: dict[Term, str] = {
    "response_given_instruction": "y|x",
    "response_alone": "y",
    "instruction_given_response": "x|y",
    "instruction_alone": "x",
}

Row = tuple[str, ...]


def write_pages() -> dict[Path, str]:
    """Each page with a table, as it must be."""
    pages: dict[Path, str] = {}
    for name, table, rows in (
        ("loop/README.md", "policies", describe_policies()),
        ("loop/README.md", "plan", describe_plan()),
        ("loop/README.md", "commands", describe_commands()),
        ("state/README.md", "config", describe_keys()),
    ):
        page = ROOT / name
        pages[page] = _put(pages.get(page) or page.read_text(encoding="utf-8"), table, list(rows))
    return pages


def _put(page: str, name: str, rows: list[Row]) -> str:
    """The page with a table between its two comments."""
    head, *body = ("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
    table = "\n".join((head, "|---" * len(rows[0]) + "|", *body))
    start = f"<!-- {name}: written by `make reference` -->\n"
    before, after = page.split(start)
    return f"{before}{start}\n{table}\n\n{after[after.index('<!-- end -->') :]}"


def describe_commands() -> Iterator[Row]:
    """A row for each command, and below it one for each of its options."""
    yield "command", "what"
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if not command.hidden:
            context = Context(command)
            arguments = [text for text in command.collect_usage_pieces(context) if text != "[OPTIONS]"]
            yield f"**`{re.sub('[{}]', '', ' '.join((name, *arguments)))}`**", command.help.strip()
            for parameter in command.params:
                option, text = parameter.get_help_record(context)
                if option.startswith("-") and option not in SHARED:
                    yield f"`{option}`", text


def describe_policies() -> Iterator[Row]:
    """A row for each policy."""
    yield "policy", "instruction", "response", "needs", "what"
    for name, policy in POLICIES.items():
        needs = dict.fromkeys(term for phase in PHASES for term in policy.terms(phase))
        measures = map(_name_measure, (policy.instruction, policy.response))
        yield f"`{name}`", *measures, ", ".join(f"nll({_TERMS[term]})" for term in needs), policy.what


def _name_measure(measure: Measure | None) -> str:
    if measure is None:
        return ""
    unit = f" ({measure.unit})" if measure.unit else ""
    return f"{'highest' if measure.sign > 0 else 'lowest'} {measure.title}{unit}"


def describe_plan() -> Iterator[Row]:
    """A row for each key of an experiment's plan."""
    yield "key of a plan", "what"
    for prefix, model in (("", Plan), ("arms.NAME.", Arm)):
        for name, field in model.model_fields.items():
            yield f"`{prefix}{name}`", field.description or ""


def describe_keys() -> Iterator[Row]:
    """A row for each key of the config."""
    yield "key", "type", "default", "what"
    for item in list_keys():
        default = "required" if item.is_required else "" if item.default is None else f"`{item.default}`"
        choices = f" One of: {', '.join(item.choices)}." if item.choices else ""
        yield f"`{item.key}`", item.type, default, item.doc + choices


if __name__ == "__main__":
    for path, text in write_pages().items():
        path.write_text(text, encoding="utf-8")
