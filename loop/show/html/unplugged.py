"""Datasette without the plugins that happen to be installed beside it: none may change what is served."""

import importlib
import sys

if "datasette.plugins" not in sys.modules:
    sys._called_from_test = True  # type: ignore[attr-defined] # Datasette's own switch: look for no plugins
    importlib.import_module("datasette.plugins")
    del sys._called_from_test  # type: ignore[attr-defined]

from datasette.app import Datasette
from datasette.database import Database, QueryInterrupted
from datasette.hookspecs import hookimpl
from datasette.plugins import DEFAULT_PLUGINS, pm
from datasette.utils.asgi import Base400, Response
from datasette.views.base import DatasetteError

__all__ = [
    "Base400",
    "Database",
    "Datasette",
    "DatasetteError",
    "QueryInterrupted",
    "Response",
    "hookimpl",
    "pm",
]

for _plugin in pm.get_plugins():
    if pm.get_name(_plugin) not in DEFAULT_PLUGINS:
        pm.unregister(_plugin)
