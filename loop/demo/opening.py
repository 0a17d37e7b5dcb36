"""How a demo's run begins: found under its name, or made, with its inputs beside it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from reflectune.loop.run import create_run
from reflectune.state.config import RunConfig
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder

__all__ = ["find_or_create", "name_run"]


def name_run(demo: str, changes: Mapping[str, bool]) -> str:
    """The name of a demo's run: behind the demo's own, what was changed of it."""
    return "-".join([demo, *(change for change, is_made in changes.items() if is_made)])


def find_or_create(
    runs: Path, config: RunConfig, inputs: Sequence[Path], write: Callable[..., None]
) -> RunFolder:
    """The run of a config's name; where there is none, `write` is given its inputs, and it is created."""
    folder = RunFolder(runs / config.name)
    if folder in RunFolder.all(runs):
        return folder
    if folder.path.exists():
        raise ConfigError(f"{folder.path} is there and is no run; move it, or name another folder by --runs")
    made = [path for path in inputs if not path.exists()]
    try:
        runs.mkdir(parents=True, exist_ok=True)
        write(*inputs)
    except OSError as error:
        raise ConfigError(f"{runs}: cannot make a run there: {error.strerror}") from error
    try:
        return create_run(config, runs)
    except BaseException:
        for path in made:
            path.unlink()
        raise
