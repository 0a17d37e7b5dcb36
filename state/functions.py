"""Functions of the user's own that a config names as "module:function"."""

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reflectune.state.errors import ConfigError
from reflectune.state.text import one_line

__all__ = ["describe_error", "hash_module", "load_function"]


def load_function(key: str, name: str) -> Callable[..., Any]:
    """Import the function that a config key names; the working directory is importable.

    Raises:
        ConfigError: there is none, or its module cannot be imported.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ConfigError(f"{key} = {name!r}: want module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), function_name, None)
    except Exception as error:  # whatever the module does when it is imported
        raise ConfigError(f"{key}: cannot import {module_name}: {describe_error(error)}") from error
    if function is None:
        raise ConfigError(f"{key}: module {module_name} has no {function_name}")
    if not callable(function):
        raise ConfigError(f"{key}: {name} is not a function")
    return function  # type: ignore[no-any-return]  # its annotations, if any, are the user's


def hash_module(key: str, name: str) -> str:
    """Hash of the file of such a function's module; what that imports is not in it."""
    load_function(key, name)
    file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    if file is None:
        raise ConfigError(f"{key}: {name} stands in no file, and so has no hash")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:32]


def describe_error(error: Exception) -> str:
    """What an error says, in a line."""
    return f"{type(error).__name__}: {one_line(str(error))}"
