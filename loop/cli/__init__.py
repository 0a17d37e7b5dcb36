"""The `reflectune` command: parses first, imports models and machine in the command that needs them."""

import os
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from typing import Annotated

import typer

from reflectune.loop.cli import data, experiments, judging, measuring, outputs, running, showing
from reflectune.loop.cli.common import say
from reflectune.state.errors import ReflectuneError
from reflectune.state.text import inert

__all__ = ["app", "main"]

_PYDANTIC = "Value error, "  # how its messages about a choice begin

app = typer.Typer(
    name="reflectune",
    help="Recycle an instruction-tuning dataset: a teacher reflects, the student selects, LoRA refinetunes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: tuple[Callable[..., None], ...] = (
    running.init, running.check, running.estimate, running.run, running.resume, showing.list_runs,
    showing.show, showing.trace, showing.search, showing.compare, showing.diff, showing.serve,
    showing.report, showing.verify, data.export, data.score, judging.answer, measuring.signal,
    measuring.replay, experiments.experiment, outputs.merge, outputs.publish, running.prompts, running.demo,
    running.demo_english,
)  # fmt: skip
for command in COMMANDS:
    app.command(command.__name__.removeprefix("list_").replace("_", "-"))(command)
app.command("samples", hidden=True)(showing.search)  # what `search` was called before


def main() -> None:
    """Run the command line; exit 0, 1 on failure, 2 on wrong use or bad input, 130 or 143 when stopped."""
    # Threads that spin long while they wait for each other keep CPUs from others: beside them all come to a
    # crawl. Not to spin at all makes small models three times as slow.
    # OpenMP reads this once, when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "2500")
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        if message := error.format_message():  # empty where help was shown instead
            say(f"reflectune: {message.replace(_PYDANTIC, '').removesuffix('.')}; {_name_help(error)}")
        code = error.exit_code
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:  # noqa: BLE001 (the last resort: one line instead of a traceback)
        code = _fail(error)
    sys.exit(code)


def _name_help(error: typer.TyperException) -> str:
    """Which help has what a wrong use lacks: that of its command, where it names one."""
    context = getattr(error, "ctx", None)
    if context is None or context.parent is None:
        return "`reflectune --help` lists the commands and options"
    return f"`reflectune {context.info_name} --help` lists its arguments and options"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reflectune {metadata.version('reflectune')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="REFLECTUNE_DEBUG", help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Take the options that come before a command."""
    if debug:
        os.environ["REFLECTUNE_DEBUG"] = "1"


def _fail(error: Exception) -> int:
    if os.environ.get("REFLECTUNE_DEBUG"):
        typer.echo(inert("".join(traceback.format_exception(error))), err=True, nl=False)
    if isinstance(error, ReflectuneError):
        say(f"reflectune: {error}")
        return error.exit_code
    say(f"reflectune: unexpected {type(error).__name__}: {error}; `reflectune --debug ...` tells where")
    return 1
