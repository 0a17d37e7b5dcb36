"""Imports point down, and asking for help loads no model."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODEL_LIBRARIES = {"torch", "transformers", "peft", "vllm", "accelerate", "ray"}
FORBIDDEN = {
    "state": {"reflectune.agents", "reflectune.loop", "langgraph", "rich", "typer"} | MODEL_LIBRARIES,
    "agents": {
        "reflectune.loop",
        "reflectune.state.lineage",
        "reflectune.state.cache",
        "langgraph",
        "langchain_core",
        "rich",
        "typer",
        "sqlite3",
        "sqlite_utils",
    },
    "loop": MODEL_LIBRARIES,
}


def imports_of(path: Path) -> set[str]:
    """Every module a file imports anywhere in it, by full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def sources() -> list[Path]:
    return sorted(path for layer in FORBIDDEN for path in (ROOT / layer).rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    imported = imports_of(path)
    for forbidden in FORBIDDEN[path.relative_to(ROOT).parts[0]] | {"tests"}:
        assert not {name for name in imported if f"{name}.".startswith(f"{forbidden}.")}


def test_every_folder_with_code_is_named_as_a_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT).parts for path in sources()}
    packages = {".".join(("reflectune", *parts)) for parts in folders} | {"reflectune"}
    assert set(settings["packages"]) == packages
    layers = {f"reflectune.{layer}": layer for layer in FORBIDDEN}
    assert settings["package-dir"] == layers | {"reflectune": ".packages/reflectune"}


_SQL = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|REPLACE|WITH|CREATE|DROP|ALTER|PRAGMA)\s")


@pytest.mark.slow
def test_only_the_state_layer_speaks_sql() -> None:
    for path in sources():
        if path.is_relative_to(ROOT / "state"):
            continue
        strings = [
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not [*filter(_SQL.match, strings)], path


@pytest.mark.slow
def test_help_loads_no_model_library_and_little_else() -> None:
    code = (
        "import sys; sys.argv = ['reflectune', '--help']\n"
        "from reflectune.loop.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.splitlines()[-1].split())
    assert not loaded & (MODEL_LIBRARIES | {"langgraph", "datasets", "numpy", "openai", "sqlite_utils"})
    assert "reflectune.loop.cli" in loaded
    assert len(loaded) < 550  # it is 474, most of them of rich, typer and pydantic; numpy alone has 130
