"""The `reflectune` command: parses first, imports models and machine in the command that needs them."""

import json
import os
import sqlite3
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from loop.demo import POLICY, ROUNDS, SAMPLES
from loop.interruption import Interrupted, Interruption, catch_signals
from state.errors import AdapterError, ConfigError, ReflectuneError, TeacherError
from state.records import PolicyName
from state.text import inert, one_line, to_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from state.folder import RunFolder
    from state.history import History

__all__ = ["app", "main"]

app = typer.Typer(
    name="reflectune",
    help="Recycle an instruction-tuning dataset: a teacher reflects, the student selects, LoRA refinetunes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Runs = Annotated[Path, typer.Option("--runs", envvar="REFLECTUNE_RUNS", help="Folder that holds the runs.")]
Name = Annotated[str, typer.Argument(help="Name of the run.", show_default=False)]
RUNS = Path("runs")


def main() -> None:
    """Run the command line; exit 0, 1 on failure, 2 on wrong use or bad input, 130 or 143 when stopped."""
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        if message := error.format_message():  # empty where help was shown instead
            _say(f"reflectune: {message} `reflectune --help` lists the commands and options")
        code = error.exit_code
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:  # noqa: BLE001 (the last resort: one line instead of a traceback)
        code = _fail(error)
    sys.exit(code)


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="REFLECTUNE_DEBUG", help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Take the options that come before a command."""
    if debug:
        os.environ["REFLECTUNE_DEBUG"] = "1"


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="File to write.")] = Path("reflectune.toml"),
) -> None:
    """Write a commented config file."""
    from state.config import commented_config

    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(commented_config())
    except FileExistsError:
        raise ConfigError(f"{file} exists; name another file or remove it") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error
    _say(f"wrote {file}: edit it, then `reflectune run {file}`")


@app.command()
def prompts() -> None:
    """Print the teacher's prompts: a file to edit, for teacher.prompts."""
    from agents.prompts import SHIPPED

    typer.echo(SHIPPED.read_text(encoding="utf-8"), nl=False)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="Config file.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Name of the run, instead of the config's.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one config key; repeatable."),
    ] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Start a run and stay with it to its end."""
    from state.config import load_config

    overrides = [*(set_ or []), *([] if name is None else [f"name={json.dumps(name)}"])]
    settings = load_config(config, overrides)
    from loop.run import create_run

    with _stoppable() as interruption:
        folder = create_run(settings, runs)
        _run_to_end(folder, interruption)
    _show_rounds(folder, as_json)


@app.command()
def resume(
    name: Name,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change rounds, the teacher's budget, or how it is asked; repeatable.",
        ),
    ] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Go on with a run where it stopped."""
    from state.folder import RunFolder

    folder = RunFolder.find(runs, name)
    folder.refuse_if_locked()
    with _stoppable() as interruption:
        if set_:
            from loop.run import change_run

            change_run(folder, set_)
        _run_to_end(folder, interruption)
    _show_rounds(folder, as_json)


@app.command()
def estimate(
    config: Annotated[Path, typer.Argument(help="Config file.", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one config key; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Estimate a run's teacher calls, tokens and cost; asks no teacher and creates no run."""
    from state.config import load_config

    settings = load_config(config, set_ or [])
    from loop.estimate import estimate_run, render_estimate

    document = estimate_run(settings)
    _show(document, render_estimate(document), as_json)


@app.command("runs")
def list_runs(runs: Runs = RUNS, as_json: Json = False) -> None:
    """List all runs."""
    from loop.tables import render_runs
    from state.folder import RunFolder

    documents = [_readable_overview(folder) for folder in RunFolder.all(runs)]
    _show(documents, render_runs(documents), as_json)


@app.command()
def show(name: Name, runs: Runs = RUNS, as_json: Json = False) -> None:
    """Show the rounds of one run."""
    from state.folder import RunFolder

    _show_rounds(RunFolder.find(runs, name), as_json)


@app.command()
def trace(
    name: Name,
    sample: Annotated[
        str, typer.Argument(help="Position in the given data, id, or start of an id.", show_default=False)
    ],
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Follow one sample through all rounds."""
    from rich.console import Console

    from loop.tables import render_trace
    from state.folder import RunFolder

    with _history(RunFolder.find(runs, name)) as history:
        document = history.trace(sample)
    _show(document, render_trace(document, Console()), as_json)


@app.command()
def verify(name: Name, runs: Runs = RUNS, as_json: Json = False) -> None:
    """Check every row, adapter and file of a run against what it was derived from; exit 1 on any fault."""
    from state.folder import RunFolder

    folder = RunFolder.find(runs, name)
    from loop.ground import explained
    from loop.verify.run import describe, verify_run

    with explained(folder.path, "try again"):
        document = verify_run(folder)
    if as_json:
        _show(document, "", as_json)
    else:
        typer.echo("\n".join(describe(document)))
    if document["faults"]:
        raise typer.Exit(1)


@app.command()
def export(
    name: Name,
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write.", show_default=False)],
    round: Annotated[
        int | None, typer.Option(min=0, help="Round to export.", show_default="the last complete one")
    ] = None,
    what: Annotated[
        Literal["pool", "training", "preferences"],
        typer.Option(help="Every sample's pair, the pairs trained on, or winner and loser of each decision."),
    ] = "pool",
    format: Annotated[
        Literal["alpaca", "messages", "sharegpt", "parquet"],
        typer.Option(help="How a record is written; JSON Lines where OUT ends in .jsonl."),
    ] = "alpaca",
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Write a round's pool, training set or preference pairs to a file."""
    from state.exports import write_pairs, write_preferences
    from state.folder import RunFolder

    with _history(RunFolder.find(runs, name)) as history:
        last = history.last_round()
        chosen = last if round is None else round
        if chosen > last:
            raise ConfigError(f"{name}: round {chosen} is not complete; the last complete one is {last}")
        match what:
            case "pool":
                written = write_pairs(out, format, history.pool(chosen))
            case "training":
                written = write_pairs(out, format, history.training(chosen))
            case "preferences":
                written = write_preferences(out, format, history.preferences(chosen))
    document = {"name": name, "round": chosen, "what": what, "format": format, "written": written}
    line = f"wrote {written} records to {out} ({what} of round {chosen})"
    _show(document | {"out": str(out)}, line, as_json)


@app.command()
def score(
    data: Annotated[Path, typer.Argument(help="File of pairs.", show_default=False)],
    student: Annotated[str, typer.Option(help="Folder or hub name of the model.", show_default=False)],
    adapter: Annotated[Path | None, typer.Option(help="LoRA adapter folder on top of it.")] = None,
    template: Annotated[str, typer.Option(help="chat, plain, or a template file.")] = "chat",
    format: Annotated[
        Literal["auto", "alpaca", "messages", "sharegpt"], typer.Option(help="How a record holds its pair.")
    ] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first so many pairs.")] = None,
    max_length: Annotated[int, typer.Option(min=8, help="Most tokens of prompt and target.")] = 2048,
    batch_tokens: Annotated[int, typer.Option(min=8, help="Most tokens in one forward pass.")] = 2048,
    device: Annotated[str, typer.Option(help="torch device.")] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Number format.")
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="JSON Lines file; standard output if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score any dataset with any student: IFD and r-IFD, one JSON object a line."""
    from state.config import DataConfig, StudentConfig

    if as_json and out is None:
        raise ConfigError("--json prints a summary; say with -o FILE where the scores go")
    student_config = StudentConfig(
        model=_model_path(student),
        template=template if template in ("chat", "plain") else str(Path(template).absolute()),
        max_length=max_length,
        batch_tokens=batch_tokens,
        device=device,
        dtype=dtype,
    )
    data_config = DataConfig(path=str(data), format=format, limit=limit)
    from agents.student import check_student
    from loop.display import open_display
    from loop.score import score_dataset
    from state.exports import put_into_place

    check_student(student_config)
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise ConfigError(f"{adapter}: no LoRA adapter there; want a folder with adapter_config.json")
    if out is None:
        score_dataset(data_config, student_config, adapter, sys.stdout, open_display())
        return
    with put_into_place(out) as part, part.open("w", encoding="utf-8") as stream:
        summary = score_dataset(data_config, student_config, adapter, stream, open_display())
    line = f"wrote {summary['records']} scores to {out}; {summary['scored']} pairs could be scored"
    _show(summary | {"out": str(out)}, line, as_json)


@app.command()
def demo(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to run.")] = ROUNDS,
    policy: Annotated[PolicyName, typer.Option(help="Who decides; see selection.policy.")] = POLICY,
    seed: Annotated[int, typer.Option(min=0, help="Of data, teacher and training.")] = 0,
    samples: Annotated[int, typer.Option(min=20, max=5000, help="Pairs to recycle.")] = SAMPLES,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """See the whole loop at work on the embedded models and data; takes minutes on two CPU cores."""
    from loop.demo.demo import conclude, open_demo

    with _stoppable() as interruption:
        folder = open_demo(runs, rounds=rounds, policy=policy, seed=seed, samples=samples)
        with _history(folder) as history:
            status = history.run()["status"]
        if status == "finished":
            _say(f"this demo has run before; delete {folder.path} to run it anew")
        else:
            _run_to_end(folder, interruption)
    document, rendered = conclude(folder)
    _show(document, rendered, as_json)


@contextmanager
def _stoppable() -> Iterator[Interruption]:
    """Let SIGINT and SIGTERM end the block with the exit codes of a shell."""
    with catch_signals() as interruption:
        try:
            yield interruption
        except Interrupted:
            raise typer.Exit(interruption.exit_code) from None


def _run_to_end(folder: "RunFolder", interruption: Interruption) -> None:
    name = folder.path.name
    try:
        from loop.display import open_display
        from loop.run import run_loop

        with interruption.finish_batches():
            reason = run_loop(folder, open_display(), interruption.is_requested)
        if reason == "budget":
            _say(
                f"{name}: the teacher's budget is spent; go on by a higher one: "
                f"`reflectune resume {name} --set {_capped_keys(folder)}`"
            )
    except (Interrupted, KeyboardInterrupt):
        _say(f"interrupted; go on with `reflectune resume {name}`")
        raise
    except (TeacherError, AdapterError) as error:
        raise type(error)(f"{error} (go on with `reflectune resume {name}`)") from error


def _capped_keys(folder: "RunFolder") -> str:
    """The budget keys that a run has set, as --set takes them."""
    from state.config import load_config

    teacher = load_config(folder.config).teacher
    caps = {"budget_tokens": teacher.budget_tokens, "budget_usd": teacher.budget_usd}
    return " --set ".join(f"teacher.{key}=N" for key, cap in caps.items() if cap is not None)


@contextmanager
def _history(folder: "RunFolder") -> "Iterator[History]":
    """Read a run's lineage; one that is damaged or locked is said in one line, with what to do."""
    from loop.ground import explained
    from state.history import History

    with explained(folder.path, "try again"), History.open(folder.lineage) as history:
        yield history


def _status(folder: "RunFolder", written: str, was_locked: bool) -> str:
    """The run's status: one that says it is running without a live process was interrupted.

    The process may have ended, or begun, since the status was read: `was_locked` before that counts too.
    """
    is_dead = written == "running" and not was_locked and not folder.is_locked()
    return "interrupted" if is_dead else written


def _show_rounds(folder: "RunFolder", as_json: bool) -> None:
    from loop.tables import render_rounds

    was_locked = folder.is_locked()
    with _history(folder) as history:
        run = history.run()
        document = {
            "name": folder.path.name,
            "status": _status(folder, run["status"], was_locked),
            "stop_reason": run["stop_reason"],
            "rounds": history.rounds(),
        }
    _show(document, render_rounds(document), as_json)


def _readable_overview(folder: "RunFolder") -> dict[str, Any]:
    """One line of `runs`; a folder that cannot be read has a line too, and keeps no other from its own."""
    try:
        return _overview(folder)
    except (ReflectuneError, sqlite3.DatabaseError) as error:
        unknown = dict.fromkeys(("round", "rounds", "samples", "acceptance", "cost_usd", "created_at"))
        return {"name": folder.path.name, "status": "unreadable", **unknown, "error": str(error)}


def _overview(folder: "RunFolder") -> dict[str, Any]:
    was_locked = folder.is_locked()
    with _history(folder) as history:
        run = history.run()
        samples = history.samples()
        return {
            "name": folder.path.name,
            "status": _status(folder, run["status"], was_locked),
            "round": history.last_round(),
            "rounds": run["rounds"],
            "samples": samples["train"] + samples["holdout"],
            "acceptance": history.acceptance(),
            "cost_usd": history.teacher()["cost_usd"],
            "created_at": run["created_at"],
        }


def _model_path(model: str) -> str:
    return str(Path(model).absolute()) if Path(model).exists() or model.startswith((".", "/")) else model


def _show(document: object, rendered: "RenderableType", as_json: bool) -> None:
    if as_json:
        typer.echo(to_json(document, indent=1))
        return
    from rich.console import Console

    shown = inert(rendered) if isinstance(rendered, str) else rendered
    Console().print(shown, markup=False, highlight=False)


def _say(text: str) -> None:
    typer.echo(one_line(text), err=True)


def _fail(error: Exception) -> int:
    if os.environ.get("REFLECTUNE_DEBUG"):
        typer.echo(inert("".join(traceback.format_exception(error))), err=True, nl=False)
    if isinstance(error, ReflectuneError):
        _say(f"reflectune: {error}")
        return error.exit_code
    _say(f"reflectune: unexpected {type(error).__name__}: {error}; `reflectune --debug ...` tells where")
    return 1


if __name__ == "__main__":
    main()
