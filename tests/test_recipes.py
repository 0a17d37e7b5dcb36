import tomllib
from pathlib import Path
from typing import get_args

import pytest

from reflectune.state.config import load_config
from reflectune.state.config.reference import read_recipe
from reflectune.state.records import Recipe
from tests.batch_server import serve_batches
from tests.teacher_server import serve_teacher
from tests.test_cli import as_json, printed
from tests.tiny_models import save_tiny_llama
from tests.worlds import write_world

RECIPES = get_args(Recipe)
FOLDER = Path(__file__).parents[1] / "state" / "config" / "recipes"


def test_every_file_of_recipes_is_offered() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_complete_config_and_says_what_to_expect(tmp_path: Path, name: Recipe) -> None:
    printed(tmp_path, "init", "config.toml", "--recipe", name)
    text = (tmp_path / "config.toml").read_text()
    assert text == read_recipe(name)
    load_config(tmp_path / "config.toml")
    told = text.partition("# Expect")[2].partition("\n\n")[0]
    assert all(word in told for word in ("memory", "time", "disk", "estimate"))


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith(("alpaca", "wizardlm"))])
def test_the_papers_recipes_have_the_papers_settings(name: Recipe) -> None:
    values = tomllib.loads(read_recipe(name))
    teacher, student, training = (values[section] for section in ("teacher", "student", "refinetune"))
    assert (teacher["temperature"], teacher["max_tokens"]) == (0.0, 2048)
    assert (student["template"], student["max_length"]) == ("vicuna", 2048)
    assert (training["epochs"], training["warmup"]) == (3, 0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_on_tiny_stand_ins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Recipe
) -> None:
    """One round by its settings; data, models, the server's address and sizes are a test's."""
    write_world(tmp_path, samples=30)
    values = tomllib.loads(read_recipe(name))
    chat = values["student"].get("template", "chat") == "chat"
    save_tiny_llama(tmp_path / "student", chat=chat)
    (tmp_path / "hub").mkdir()
    (tmp_path / "data.json").rename(tmp_path / "hub" / "train.json")
    source = "hf=hub" if "hf" in values["data"] else "path=hub/train.json"
    sets = ["rounds=1", f"data.{source}", "data.holdout=6", "student.model=student", "student.max_length=512"]
    sets += ["student.threads=1", "evaluate.max_tokens=8", "selection.train_max_ifd=1e9"]
    sets += ["selection.train_max_r_ifd=1e9"]
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with serve_teacher() as server, serve_batches() as batches:
        match values["teacher"]["engine"]:
            case (
                "vllm"
            ):  # a student that writes noise: its proposals fail, and the loop must turn all the same
                sets += ["teacher.engine=transformers", "teacher.max_tokens=8", "stop.max_failures=1"]
            case engine:
                sets.append(f"teacher.base_url={batches.url if engine == 'batch' else server.url}")
        (tmp_path / "config.toml").write_text(read_recipe(name))
        options = [part for each in sets for part in ("--set", each)]
        shown = as_json(tmp_path, "run", "config.toml", *options)
    assert shown["status"] == "finished", shown
