"""The errors Reflectune raises on purpose.

    ReflectuneError
    ├── ConfigError     a config file, an option or a run name that cannot be used
    ├── DatasetError    given data that cannot be read or is not what it should be
    ├── StudentError    a student model, tokenizer or template that cannot be used as given
    ├── StoreError      a run folder or lineage database that is missing, newer, or in use
    ├── TeacherError    the teacher cannot be reached or refuses everything
    └── AdapterError    a LoRA adapter that could not be trained, written or read

A message says what failed, where, what it got and wanted, and what to do next, on one line.
One bad answer or one unscorable pair is data, not an error: it is recorded with a status.
"""

from reflectune.state.text import one_line

__all__ = [
    "AdapterError",
    "ConfigError",
    "DatasetError",
    "ReflectuneError",
    "StoreError",
    "StudentError",
    "TeacherError",
]


class ReflectuneError(Exception):
    """Anything that went wrong in a way Reflectune can explain.

    Its message is one line that a terminal only shows, whatever data or library it quotes.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class _WrongInput(ReflectuneError):
    exit_code = 2


class ConfigError(_WrongInput):
    """A config file, an option or a run name cannot be used."""


class DatasetError(_WrongInput):
    """Given data cannot be read, or its records are not what it should have."""


class StudentError(_WrongInput):
    """A student model, tokenizer or template cannot be used as given."""


class StoreError(_WrongInput):
    """A run folder or its database is missing, newer than this version, or in use."""


class TeacherError(ReflectuneError):
    """The teacher cannot be reached or refuses every request.

    `kept` is what it may lie in that a run keeps, as a key of the config: to resume is no cure then.
    """

    def __init__(self, message: str, *, kept: str = "") -> None:
        super().__init__(message)
        self.kept = kept


class AdapterError(ReflectuneError):
    """A LoRA adapter could not be trained, written or read."""
