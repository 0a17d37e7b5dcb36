import re
from pathlib import Path

import pytest

from tests.reference import ROOT, write_pages

READMES = sorted(path for path in ROOT.glob("*/README.md"))
# What a name in backticks must be to be taken for a path of the project.
_PATH = re.compile(r"`((?:loop|agents|state|tests)/[\w./]+)`")


@pytest.mark.parametrize("page", write_pages(), ids=lambda page: page.parent.name)
def test_tables_are_what_the_code_says(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == write_pages()[page], "run `make reference`"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1000


@pytest.mark.parametrize("page", [ROOT / "README.md", *READMES], ids=lambda page: page.parent.name)
def test_readmes_name_and_link_what_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"(?:\]\(|src=\")((?!https?:)[^)#\"]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    rooms = re.findall(r"^\| ((?:`[\w./]+`(?:, )?)+) \|", text, flags=re.MULTILINE)
    named = [name for row in rooms for name in re.findall(r"`([\w./]+/|[\w/]+\.py)`", row)]
    assert [name for name in named if not (page.parent / name).exists()] == []
    assert [path for path in _PATH.findall(text) if not (ROOT / path).exists()] == []


def test_readme_file_tree_is_there() -> None:
    tree = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert tree is not None
    folder, names = "", []
    for line in tree[1].splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder, name = name, ""
        names.append(f"{folder}{name}")
    assert len(names) <= 30
    assert [name for name in names if not (ROOT / name).exists()] == []
