"""The run configuration: one TOML file, one model.

The keys are in `sections`, how a file is read and changed in `loading`, their documentation in `reference`.
"""

from reflectune.state.config.loading import (
    CHANGEABLE,
    change_config,
    flatten,
    load_begun_config,
    load_config,
    parse_config,
    read_toml,
    set_key,
    upgrade_config,
)
from reflectune.state.config.reference import ConfigKey, commented_config, list_keys
from reflectune.state.config.sections import (
    SELF,
    DataConfig,
    EvaluateConfig,
    RefinetuneConfig,
    RunConfig,
    SelectionConfig,
    StopConfig,
    StudentConfig,
    TeacherConfig,
)

__all__ = [
    "CHANGEABLE",
    "SELF",
    "ConfigKey",
    "DataConfig",
    "EvaluateConfig",
    "RefinetuneConfig",
    "RunConfig",
    "SelectionConfig",
    "StopConfig",
    "StudentConfig",
    "TeacherConfig",
    "change_config",
    "commented_config",
    "flatten",
    "list_keys",
    "load_begun_config",
    "load_config",
    "parse_config",
    "read_toml",
    "set_key",
    "upgrade_config",
]
