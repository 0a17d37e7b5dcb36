"""Advice in messages: whoever reads one can follow it where it stands.

`score` and `check DATA` have no config, so their messages name options of theirs alone; other messages name
keys that exist, and keys to change while a run goes on that may change.
"""

import ast
import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from reflectune.loop.cli import app
from reflectune.state.config import _RENAMED, CHANGEABLE, RunConfig
from tests.worlds import ROOT, reflectune

SECTIONS = RunConfig.sections()
KEYS = {f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields}
KEY = re.compile(rf"(?<![\w./-])((?:{'|'.join(SECTIONS)})\.(?!json)[a-z0-9_]*[a-z0-9])(?![\w(/])")
OPTION = re.compile(r"(?<![\w-])(--?[a-z][\w-]*)")

PAIR = {"instruction": "Name a colour.", "input": "", "output": "Blue."}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


ASKED, ANSWERED = ("user", "Hi"), ("assistant", "Hello")
IMAGE = ("user", [{"type": "image_url", "image_url": "x.png"}])
WITH_TOOLS = {"messages": [*chat(ASKED)["messages"], CALL, *chat(("tool", "1"), ANSWERED)["messages"]]}
EARLIER = {"messages": [*WITH_TOOLS["messages"], *chat(ASKED, ANSWERED)["messages"]]}

# What is wrong with the data, and options: `score` refuses it, whoever else may take it.
DATA: dict[str, tuple[object, str]] = {
    "missing": (None, ""),
    "empty": (b"", ""),
    "no rows": ([], ""),
    "no json": (b'[{"instruction": ', ""),
    "no list": (b'{"a": [{"q": 1}], "b": [{"q": 1}]}', ""),
    "zip": (b"PK\x03\x04", ""),
    "tar": (b"\0" * 257 + b"ustar", ""),
    "damaged": (b"\x1f\x8b\x08\0\0\0\0\0", ""),
    "latin": ('instruction,output\n"Où ça, garçon?","Là-bas, à côté."\n'.encode("cp1252"), ""),
    "utf-16": ("instruction,output\na,b\n".encode("utf-16-le"), ""),
    "csv": (b"instruction,output\na,b,c\n", ""),
    "csv header": (b"output,output\na,b\n", ""),
    "csv quotes": (b'instruction,output\n"a,b\n', ""),
    "parquet": (b"PAR1" + b"\0" * 20, ""),
    "no object": ([PAIR, 7], ""),
    "other fields": ([PAIR, {"title": "x"}], ""),
    "format": ([chat(ASKED, ANSWERED)], "--format alpaca"),
    "roles": ([chat(("Kunde", "Hi"), ANSWERED)], ""),
    "turns": ([chat(ASKED, ("system", "Go."), ANSWERED)], ""),
    "no answer": ([chat(ASKED)], ""),
    "no turns": ([{"messages": 7}], ""),
    "tools": ([PAIR | {"tools": [{"name": "f"}]}], ""),
    "tool answer": ([WITH_TOOLS], ""),
    "media": ([chat(IMAGE, ANSWERED)], ""),
    "all skipped": ([WITH_TOOLS], "--skip tools"),
    "columns": ([PAIR], "--columns instruction=question,response=output"),
}
# What is wrong with the student: template and files of a model folder, and options.
WRITTEN = (
    "{{ raise_exception('no') if turn.role == 'tool' else '<|' + turn.role + '|>' + turn.content + '\n' }}"
)
STRICT = (
    "{% for turn in messages %}"
    + WRITTEN
    + "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DEAF = STRICT.replace("in messages", "in messages[-2 if messages[-1].role == 'assistant' else -1:]")
STUDENT: dict[str, tuple[dict[str, str | None], str]] = {
    "no folder": ({}, "--student ./gone"),
    "no hub": ({}, "--student nobody/nothing"),
    "no config": ({"config.json": None}, ""),
    "no tokenizer": ({"tokenizer.json": None}, ""),
    "no weights": ({"model.safetensors": None}, ""),
    "pickled": ({"model.safetensors": None, "pytorch_model.bin": "x"}, ""),
    "damaged": ({"model.safetensors": "x"}, ""),
    "no chat template": ({}, "--template chat"),
    "no template": ({}, "--template none.toml"),
    "no toml": ({"own.toml": "x"}, "--template model/own.toml"),
    "half a template": ({"own.toml": 'prompt = "x"'}, "--template model/own.toml"),
    "device": ({}, "--device tpu"),
    "no adapter": ({}, "--adapter gone"),
    "empty adapter": ({}, "--adapter adapter"),
    "refuses a context": ({"chat_template.jinja": STRICT}, "--template chat"),
    "leaves a turn out": ({"chat_template.jinja": DEAF}, "--template chat"),
}
OPTIONS = (
    "--limit 0", "--max-length 1", "--dtype int8", "--top 5%", "--keep kept.jsonl --top 0%",
    "--keep kept.txt", "--keep gone/kept.json", "--keep kept.csv", "-o student", "--skip odd", "--json",
    "--columns question", "--fields ids", "--turns all",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny student, and data of several splits."""
    from tests.tiny_models import save_tiny_llama

    folder = tmp_path_factory.mktemp("advice")
    save_tiny_llama(folder / "student")
    (folder / "good.json").write_text(json.dumps([PAIR | {"tags": []}, EARLIER]))
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "splits").mkdir()
    for split in ("train", "test"):
        (folder / "splits" / f"{split}.json").write_text(json.dumps([PAIR]))
    return folder


def options_of(command: str) -> set[str]:
    group: Any = typer.main.get_command(app)
    parameters = [*group.commands[command].params, *group.params]
    return {option for each in parameters for option in each.opts} | {"--help"}


def find_faults(message: str, command: str) -> list[str]:
    """What a message of a command without a config advises that cannot be done."""
    told = re.sub(r"`[^`]*`", "", message)  # other programs' options
    faults = [f"key {key}" for key in KEY.findall(told)]
    faults += [f"option {option}" for option in OPTION.findall(told) if option not in options_of(command)]
    return faults + [what for what in ("resume", "reflectune: unexpected") if what in message]


@pytest.mark.parametrize(
    ("message", "faults"),
    [
        ("set data.format to auto, or data.odd.tools to skip", ["key data.format", "key data.odd"]),
        ("data.json: set --template plain, or -o x; `iconv -f cp1252 --to utf-8`", []),
        ("lower --threads, then resume", ["option --threads", "resume"]),
        ("reflectune: unexpected KeyError", ["reflectune: unexpected"]),
    ],
)
def test_find_faults_finds_what_cannot_be_done(message: str, faults: list[str]) -> None:
    assert find_faults(message, "score") == faults


@pytest.mark.slow
def test_messages_of_score_and_check_data_advise_what_these_commands_can_do(world: Path) -> None:
    found: dict[str, list[str]] = {}

    def refuse(title: str, *arguments: str) -> None:
        result = reflectune(*arguments, cwd=world)
        message = result.stderr.replace(str(world), "")
        assert result.returncode in (1, 2) or arguments[0] == "check", (title, message, result.stdout)
        if faults := find_faults(message + result.stdout * (arguments[0] == "check"), arguments[0]):
            found[f"{arguments[0]} {title}"] = [*faults, message]

    plain = ("--student", "student", "--template", "plain")
    for title, (content, options) in {**DATA, "splits": (None, "")}.items():
        data = "splits" if title == "splits" else "odd.json"
        (world / "odd.json").unlink(missing_ok=True)
        if content is not None:
            given = content if isinstance(content, bytes) else json.dumps(content).encode()
            (world / "odd.json").write_bytes(given)
        refuse(title, "score", data, *plain, *options.split())
        if "--skip" not in options:
            refuse(title, "check", data, *options.split())
    for title, (files, options) in STUDENT.items():
        model = shutil.copytree(world / "student", world / "model", dirs_exist_ok=True)
        for name, text in files.items():
            if text is None:
                (model / name).unlink()
            else:
                (model / name).write_text(text)
        refuse(title, "score", "good.json", "--student", "model", "--template", "plain", *options.split())
        shutil.rmtree(model)
    for options in OPTIONS:
        refuse(options, "score", "good.json", *plain, *options.split())
    assert not found


def test_every_key_that_a_text_of_the_code_names_exists() -> None:
    known = KEYS | set(_RENAMED)
    unknown = [
        (path.relative_to(ROOT), text)
        for path, text in _texts()
        for key in KEY.findall(text)
        if key not in known
    ]
    assert not unknown


def test_every_key_that_a_text_tells_to_set_on_resume_may_change() -> None:
    keys = [key for _, text in _texts() for key in re.findall(r"--set ([a-z]+\.[a-z_]+|rounds)", text)]
    assert keys
    assert set(keys) <= {*CHANGEABLE}


@cache
def _texts() -> list[tuple[Path, str]]:
    """The texts of the sources, formatted ones with their gaps as …."""
    texts = []
    for folder in ("agents", "loop", "state"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                    texts.append((path, "".join(map(str, parts))))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append((path, node.value))
    return texts
