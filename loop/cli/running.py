"""Commands that begin a run and go on with it, and those that come before."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reflectune.loop.cli import common
from reflectune.loop.cli.data import read_columns
from reflectune.loop.demo import POLICY, ROUNDS, SAMPLES, english
from reflectune.loop.signals import Interrupted, Interruption
from reflectune.state.errors import AdapterError, ConfigError, StudentError, TeacherError
from reflectune.state.folder import RunFolder, to_command
from reflectune.state.records import DataFormat, PolicyName, Recipe, Turns

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "check", "demo", "demo_english", "estimate", "init", "prompts", "resume", "run", "say_what_is_left_out"
]  # fmt: skip

DemoPolicy = Annotated[PolicyName, typer.Option(help="Who decides; see selection.policy.")]


def init(
    file: Annotated[Path, typer.Argument(help="File to write.")] = Path("reflectune.toml"),
    recipe: Annotated[
        Recipe | None, typer.Option(help="A complete setting to start from, instead of every key.")
    ] = None,
) -> None:
    """Write a commented config file."""
    from reflectune.state.config.reference import commented_config, read_recipe

    text = commented_config() if recipe is None else read_recipe(recipe)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} exists; name another file or remove it") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error
    common.say(f"wrote {file}: edit it, then `reflectune run {file}`")


def prompts() -> None:
    """Print the teacher's prompts: a file to edit, for teacher.prompts."""
    from reflectune.agents.teacher.prompts import SHIPPED

    typer.echo(SHIPPED.read_text(encoding="utf-8"), nl=False)


def run(
    config: common.ConfigFile,
    name: Annotated[str | None, typer.Option(help="Name of the run, instead of the config's.")] = None,
    set_: common.Settings = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Start though most rows of the data are skipped.")
    ] = False,
    runs: common.Runs = common.RUNS,
    as_json: common.Json = False,
) -> None:
    """Start a run and stay with it to its end."""
    from reflectune.state.config import load_config

    overrides = [*(set_ or []), *([] if name is None else [f"name={json.dumps(name)}"])]
    settings = load_config(config, overrides)
    from reflectune.loop.run import create_run

    with common.stoppable() as interruption:
        folder = create_run(settings, runs, accept_few=yes)
        say_what_is_left_out(folder)
        _run_to_end(folder, interruption)
    common.show_rounds(folder, as_json)


def resume(
    name: common.Name,
    set_: common.Settings = None,
    runs: common.Runs = common.RUNS,
    as_json: common.Json = False,
) -> None:
    """Go on with a run where it stopped; --set changes rounds, the budget, or how the teacher is asked."""
    folder = RunFolder.find(runs, name)
    with folder.lock():  # another process's run is refused before anything is opened
        pass
    with common.stoppable() as interruption:
        if set_:
            from reflectune.loop.run import change_run

            change_run(folder, set_)
        _run_to_end(folder, interruption)
    common.show_rounds(folder, as_json)


def estimate(
    config: common.ConfigFile,
    set_: common.Settings = None,
    on: Annotated[
        str | None, typer.Option(metavar="NxGPU", help="Plan the rounds on such GPUs, as 8xH100.")
    ] = None,
    as_json: common.Json = False,
) -> None:
    """Estimate a run's teacher calls, tokens and cost; asks no teacher and creates no run."""
    from reflectune.state.config import load_config

    settings = load_config(config, set_ or [])
    from reflectune.loop.estimate import estimate_run, render_estimate

    document = estimate_run(settings, on)
    common.show_document(document, render_estimate(document), as_json)


def check(
    data: Annotated[Path, typer.Argument(help="File of pairs, or a run's config file.", show_default=False)],
    format: Annotated[DataFormat | None, typer.Option(help="How a row holds its pair.")] = None,
    turns: Annotated[Turns | None, typer.Option(help="Which exchange of a conversation counts.")] = None,
    columns: Annotated[
        str, typer.Option(metavar="NAME=FIELD,...", help="Fields of other names, as instruction=query.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Check only the first so many pairs.")] = None,
    ask: Annotated[
        int, typer.Option(min=0, help="Ask a config's teacher about so many pairs; this may cost.")
    ] = 2,
    runs: common.Runs = common.RUNS,
    as_json: common.Json = False,
) -> None:
    """Tell what data holds and what ails it; of a config also what its teacher answers about two pairs."""
    from reflectune.loop.check import check_data, render_check
    from reflectune.state.config import DataConfig, load_config

    given = {"format": format, "turns": turns, "limit": limit, "columns": read_columns(columns) or None}
    changes = {name: value for name, value in given.items() if value is not None}
    if data.suffix != ".toml":
        document = check_data(DataConfig.model_validate({"path": str(data)} | changes))
        common.show_document(document, render_check(document), as_json)
        return
    config = load_config(data)
    config = config.model_copy(update={"data": config.data.model_copy(update=changes)})
    document = check_data(config.data)
    if not ask:
        common.show_document(document, render_check(document), as_json)
        return
    from rich.console import Group

    from reflectune.loop.trial import render_trial, try_teacher

    with common.stoppable():
        trial = try_teacher(config, runs, ask)
    shown = Group(render_check(document), render_trial(trial))
    common.show_document(document | {"teacher": trial}, shown, as_json)
    if trial["error"]:
        raise typer.Exit(1)


def demo(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to run.")] = ROUNDS,
    policy: DemoPolicy = POLICY,
    seed: Annotated[int, typer.Option(min=0, help="Of data, teacher and training.")] = 0,
    samples: Annotated[int, typer.Option(min=20, max=5000, help="Pairs to recycle.")] = SAMPLES,
    runs: common.Runs = common.RUNS,
    as_json: common.Json = False,
) -> None:
    """See the whole loop at work on the embedded models and data; takes minutes on two CPU cores."""
    from reflectune.loop.demo.demo import conclude, open_demo

    opening = partial(open_demo, runs, rounds=rounds, policy=policy, seed=seed, samples=samples)
    _run_demo(opening, conclude, as_json)


def demo_english(
    model: Annotated[
        str, typer.Option(help="The student: a folder or a hub name, with a chat template.")
    ] = english.MODEL,
    rounds: Annotated[int, typer.Option(min=1, max=english.ROUNDS, help="Rounds to run.")] = english.ROUNDS,
    policy: DemoPolicy = POLICY,
    seed: Annotated[int, typer.Option(min=0, help="Of split and training.")] = 0,
    runs: common.Runs = common.RUNS,
    as_json: common.Json = False,
) -> None:
    """See the loop on a real model and real answers that a judge compared; takes minutes on two CPU cores."""
    from reflectune.loop.demo.english.demo import conclude, open_demo

    opening = partial(open_demo, runs, model=model, rounds=rounds, policy=policy, seed=seed)
    _run_demo(opening, conclude, as_json)


def _run_demo(
    opening: Callable[[], RunFolder],
    conclude: Callable[[RunFolder], tuple[dict[str, Any], "RenderableType"]],
    as_json: bool,
) -> None:
    """Find or begin a demo's run, bring it to its end, and tell what it has shown."""
    with common.stoppable() as interruption:
        folder = opening()
        with common.read_run(folder) as lineage:
            status = lineage.run()["status"]
        if status == "finished":
            common.say(f"this demo has run before; delete {folder.path} to run it anew")
        else:
            _run_to_end(folder, interruption)
    document, rendered = conclude(folder)
    common.show_document(document, rendered, as_json)


def say_what_is_left_out(folder: RunFolder) -> None:
    """Say in a line which rows of a run's data no sample was made of, if there are any."""
    from reflectune.loop.show.explanations import explain_skipped

    with common.read_run(folder) as lineage:
        skipped = explain_skipped(lineage.given()["skipped"])
    if skipped:
        common.say(f"{skipped}; `{folder.command('show')}` has examples")


def _run_to_end(folder: RunFolder, interruption: Interruption) -> None:
    try:
        from reflectune.loop.progress import open_display
        from reflectune.loop.run import run_loop
        from reflectune.state.config import load_begun_config

        with interruption.finish_batches():
            reason = run_loop(folder, open_display(), interruption.is_requested)
        if reason == "budget":
            caps = load_begun_config(folder.config).teacher.caps
            changes = [word for key in caps for word in ("--set", f"teacher.{key}=N")]
            common.say(
                f"{folder.path.name}: the teacher's budget is spent; go on by a higher one: "
                f"`{folder.command('resume', *changes)}`"
            )
    except (Interrupted, KeyboardInterrupt):
        common.say(f"interrupted; go on with `{folder.command('resume')}`")
        raise
    except (TeacherError, StudentError, AdapterError) as error:
        raise type(error)(f"{error} {_say_how_to_go_on(folder, error)}") from error


def _say_how_to_go_on(folder: RunFolder, error: Exception) -> str:
    """What to do about an error that ended a run, besides what it says itself."""
    go_on = f"go on with `{folder.command('resume')}`"
    if isinstance(error, TeacherError) and error.kept:
        another = to_command(folder.path.parent, "run", "CONFIG", "--name", "NEW")
        return (
            f"({error.kept} cannot change in a run: where that is wrong, correct it and start another, "
            f"`{another}`; else {go_on})"
        )
    return f"({go_on})"
