"""Whether a run is still the one that began: its config, and the files that the config names."""

import json
import textwrap
from hashlib import sha256
from pathlib import Path

from reflectune.agents.model_files import fingerprint
from reflectune.state.config import CHANGEABLE, SELF, RunConfig, flatten, load_begun_config, parse_config
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.functions import hash_module
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.policies import is_own
from reflectune.state.storage import explain_storage_errors

__all__ = ["hash_files", "refuse_changed_config", "refuse_changed_files", "restore_config"]

_SHOWN = 5  # changed keys that a refusal spells out


def restore_config(folder: RunFolder) -> RunConfig:
    """The config of a run that has begun; where its file is gone, the lineage writes it anew."""
    if not folder.config.exists():
        with LineageReader.open(folder.lineage) as lineage:
            config = parse_config(lineage.settings()["config"], source=str(folder.lineage))
        with explain_storage_errors(folder.path, "try again"):
            folder.write_config(config.to_toml())
    try:
        return load_begun_config(folder.config)
    except ConfigError as error:
        raise ConfigError(f"{error}; put it right or delete it: the lineage writes it anew") from error


def refuse_changed_config(lineage: LoopReader, config: RunConfig, folder: RunFolder) -> None:
    """A run is one experiment: scores and decisions of different settings must not mix in it."""
    stored = parse_config(lineage.settings()["config"], source="the lineage")  # with defaults of newer keys
    begun, now = flatten(stored.model_dump(mode="json")), flatten(config.model_dump(mode="json"))
    differing = [key for key in begun | now if begun.get(key) != now.get(key)]
    changed = [f"{key} {_show(begun.get(key))} -> {_show(now.get(key))}" for key in differing]
    if changed:
        more = [f"and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
        raise ConfigError(
            f"config.toml was changed since the run began ({', '.join(changed[:_SHOWN] + more)}); "
            "put it back, or delete it, and the lineage writes it anew, or start another run; "
            f"`{folder.command('resume', '--set', 'KEY=VALUE')}` changes {', '.join(CHANGEABLE)}"
        )


def hash_files(config: RunConfig, only: str | None = None) -> dict[str, str]:
    """What the files hold that a config names and a run reads again and again: config key -> hash.

    Of `only` one key the others are not looked at. A model of the hub goes by its revision, and Reflectune's
    own templates and prompts by its version. What evaluate.checker names is code, and is not checked: it may
    import more than its own file.
    """
    student, teacher, judge = config.student, config.teacher, config.judge
    models = [("student.model", student.model)]
    if teacher.is_local and teacher.model != SELF:
        models.append(("teacher.model", teacher.model or ""))
    if judge is not None and judge.is_local:
        models.append(("judge.model", judge.model or ""))
    texts = {
        "judge.prompts": (judge and judge.prompts) or "",
        "student.template": student.template,
        "teacher.prompts": teacher.prompts or "",
        "teacher.path": teacher.path or "",  # recorded answers
    }
    models = [(key, model) for key, model in models if only in (None, key)]
    hashes = {key: fingerprint(Path(model)) for key, model in models if model and Path(model).is_dir()}
    for key, file in texts.items():
        if only in (None, key) and Path(file).is_absolute() and Path(file).is_file():
            try:
                hashes[key] = sha256(Path(file).read_bytes()).hexdigest()[:32]
            except OSError as error:
                raise ConfigError(f"{key}: {file}: cannot be read: {error.strerror}") from error
    if only in (None, "selection.policy") and is_own(config.selection.policy):
        hashes["selection.policy"] = hash_module("selection.policy", config.selection.policy)
    return hashes


def refuse_changed_files(lineage: LoopReader, config: RunConfig, only: str | None = None) -> None:
    """What a config names has to stay as well: another model under the same name is another student.

    What is gone is for those to say who open it. A run begun before hashes were kept is not checked.
    """
    begun, now = lineage.settings()["versions"], flatten(config.model_dump(mode="json"))
    for key, found in hash_files(config, only).items():
        if begun.get(key, found) != found:
            raise ConfigError(
                f"{key}: what {now[key]} holds was changed since the run began; put it back, "
                "or start another run"
            )


def _show(value: object) -> str:
    """A value of the config in a few words."""
    return "unset" if value is None else textwrap.shorten(json.dumps(value, ensure_ascii=False), 60)
