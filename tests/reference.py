"""The tables of commands and config keys in the folders' READMEs, written from the code.

python -m tests.reference
"""

import re
from collections.abc import Iterator
from pathlib import Path

import typer
from typer._click.core import Context

from reflectune.loop.cli import app
from reflectune.state.config.reference import list_keys

ROOT = Path(__file__).parent.parent
# Options that most commands have: the page says so once.
SHARED = ("--runs <path>", "--json")

Row = tuple[str, ...]


def write_pages() -> dict[Path, str]:
    """Each page with a table, as it must be."""
    tables = {ROOT / "loop/README.md": describe_commands(), ROOT / "state/README.md": describe_keys()}
    return {page: _put(page.read_text(encoding="utf-8"), list(rows)) for page, rows in tables.items()}


def _put(page: str, rows: list[Row]) -> str:
    """The page with a table between its two comments."""
    head, *body = ("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
    table = "\n".join((head, "|---" * len(rows[0]) + "|", *body))
    start, _, end = re.split(r"(?<=make reference` -->\n)(.*)(?=<!-- end -->)", page, flags=re.DOTALL)
    return f"{start}\n{table}\n\n{end}"


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
