"""The wheel holds the three folders and nothing else, and its demo runs beside packages called like them."""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.worlds import ROOT

pytestmark = pytest.mark.slow

LAYERS = ("agents", "loop", "state")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since building leaves files behind, and without a download."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "*.egg-info")
    source = shutil.copytree(ROOT, folder / "source", ignore=left_out)
    shutil.copytree(ROOT / ".packages", source / ".packages", symlinks=True)
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, source]
    result = subprocess.run(
        [sys.executable, "-m", "pip", "--verbose", *build], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stdout
    return next(folder.glob("*.whl"))


def test_wheel_holds_the_three_folders_file_for_file(wheel: Path) -> None:
    files = {path for layer in LAYERS for path in (ROOT / layer).rglob("*") if path.is_file()}
    compiled = {path for path in files if "__pycache__" in path.parts}
    guides = {path for path in files if path.name == "README.md" and (path.parent / "__init__.py").exists()}
    expected = {f"reflectune/{path.relative_to(ROOT)}" for path in files - compiled - guides}
    expected |= {f"reflectune/{name}" for name in ("__init__.py", "__main__.py")}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected
    for part in (
        "py.typed",
        "prompts.toml",
        "templates/",
        "static/",
        "models/student/model.safetensors",
        "english/NOTICE",
    ):
        assert any(part in name for name in names), part


def test_demo_of_the_wheel_runs_beside_packages_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    site = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    for layer in LAYERS:
        (site / layer).mkdir()
        (site / layer / "__init__.py").write_text(f"OWNER = 'another project: {layer}'\n")
    # The dependencies are this environment's, whose own links to this folder are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    install = ["--python", python, "install", "--no-deps", "--no-index", "--no-compile", wheel]
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *install], check=True)
    # That it runs is to be seen, and not how well it learns.
    config = site / "reflectune/loop/demo/config.toml"
    config.write_text(config.read_text().replace("tokens = 75_000", "tokens = 1_000"))

    def run(*words: object) -> str:
        result = subprocess.run(
            [*map(str, words)],
            cwd=tmp_path,
            env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert run(python, "-m", "reflectune", "--version") == f"reflectune {metadata.version('reflectune')}\n"
    demo = json.loads(run(python.with_name("reflectune"), "demo", "--samples", 20, "--rounds", 1, "--json"))
    assert [row["round"] for row in demo["rounds"]] == [0, 1]
    assert (tmp_path / "runs" / demo["name"] / "lineage.db").is_file()
    for layer in LAYERS:
        told = run(
            python, "-c", f"import {layer}, reflectune.{layer} as ours; print({layer}.OWNER, ours.__file__)"
        )
        assert told.split() == ["another", "project:", layer, str(site / f"reflectune/{layer}/__init__.py")]
