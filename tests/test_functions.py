"""Functions of the user's own."""

import sys

import pytest

from reflectune.state.errors import ConfigError
from reflectune.state.functions import hash_module, load_function


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_load_function_imports_from_the_working_directory(here):
    (here / "my_module_a.py").write_text("def check(i, n, response, reference): return response == reference")
    assert load_function("evaluate.checker", "my_module_a:check")("", "", "1", "1") is True


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_module_b", "want module:function"),
        (":check", "want module:function"),
        ("my_module_b:missing", "module my_module_b has no missing"),
        ("my_module_b:NUMBER", "my_module_b:NUMBER is not a function"),
        ("no_such_module:check", "cannot import no_such_module: ModuleNotFoundError"),
        ("my_module_c:check", "cannot import my_module_c: SyntaxError"),
        (
            "my_module_e:check",
            "cannot import my_module_e: AttributeError: ",
        ),
    ],
)
def test_load_function_says_what_it_could_not_use(here, name, message):
    (here / "my_module_b.py").write_text("NUMBER = 3")
    (here / "my_module_c.py").write_text("def check(")
    (here / "my_module_e.py").write_text("import math\nmath.two\ndef check(): pass")
    with pytest.raises(ConfigError, match=message):
        load_function("some.key", name)


def test_hash_module_is_of_the_file_that_holds_the_function(here):
    file = here / "my_module_d.py"
    file.write_text("def first(): pass\ndef second(): pass\n")
    before = hash_module("some.key", "my_module_d:first")
    assert hash_module("some.key", "my_module_d:second") == before
    file.write_text("def first(): pass\ndef second(): return 1\n")
    assert hash_module("some.key", "my_module_d:first") != before
    with pytest.raises(ConfigError, match=r"some.key: sys:exit stands in no file"):
        hash_module("some.key", "sys:exit")
