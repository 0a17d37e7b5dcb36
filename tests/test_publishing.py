"""What a run publishes: the folder, its card, and the upload by the hub's own client to a hub on loopback."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from reflectune.state.lineage.loop_reader import LoopReader
from tests.hub_server import serve_uploads
from tests.test_cli import as_json, refused
from tests.worlds import ROOT, copy_world, reflectune

pytestmark = pytest.mark.slow

TO = ("--to", "ann/tiny-recycled")


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """The card's head, and its text."""
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


def test_published_data_loads_with_its_history_and_says_what_was_done(
    finished_world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "dry"
    told = as_json(finished_world, "publish", "tiny", *TO, "--dry-run", "-o", out)
    files = ["README.md", "data/train.parquet", "decisions/train.parquet", "versions/train.parquet"]
    assert (told["files"], told["url"], told["round"]) == (files, None, 2)
    pairs, versions, decisions = (
        datasets.load_dataset(str(out), name, split="train", cache_dir=str(tmp_path / "cache"))
        for name in ("default", "versions", "decisions")
    )
    assert (len(pairs), len(decisions)) == (34, 2 * 2 * 34)
    assert set(pairs["instruction"]) <= set(versions["instruction"])
    with LoopReader.open(finished_world / "runs/tiny/lineage.db") as lineage:
        held_out = {pair.instruction for group in lineage.held_out_pairs(64) for pair in group.values()}
    assert len(held_out) == 6
    assert not held_out & set(versions["instruction"])
    head, text = card_of(out)
    assert {"default", "versions", "decisions"} == {config["config_name"] for config in head["configs"]}
    shown = as_json(finished_world, "show", "tiny")
    accepted = [row["instruction"]["accepted"] + row["response"]["accepted"] for row in shown["rounds"]]
    for row, number in zip(shown["rounds"], accepted, strict=True):
        assert f"| {row['round']} | {row['student']} | {row['pool']} | {number} | {row['training']} |" in text
    assert str(finished_world) not in text
    assert "trained on: nll on 6, response_tokens on 6." in text


def test_a_round_publishes_no_more_than_it_had(finished_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "first"
    as_json(finished_world, "publish", "tiny", *TO, "--dry-run", "-o", out, "--round", 1)
    decisions = datasets.load_dataset(str(out), "decisions", split="train", cache_dir=str(tmp_path / "cache"))
    assert set(decisions["round"]) == {1}
    assert "there is something already" in refused(
        finished_world, "publish", "tiny", *TO, "--dry-run", "-o", out
    )
    given = tmp_path / "given"
    told = as_json(finished_world, "publish", "tiny", *TO, "--dry-run", "-o", given, "--round", 0)
    assert not [file for file in told["files"] if "decisions" in file]  # there are none yet
    assert "decisions/train.parquet" not in (given / "README.md").read_text()
    assert "--dry-run: say with -o DIR" in refused(finished_world, "publish", "tiny", *TO, "--dry-run")
    assert "--to a b/c" in refused(finished_world, "publish", "tiny", "--to", "a b/c")


def test_adapter_goes_to_the_hub_as_one_commit_and_no_token_stays(
    finished_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_uploads() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        told = as_json(finished_world, "publish", "tiny", *TO, "--what", "adapter")
    assert told["url"] == f"{hub.url}/ann/tiny-recycled"
    assert hub.repos == {"ann/tiny-recycled": "model"}
    assert len(hub.commits) == 1
    assert set(hub.commits[0]) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert hub.tokens == {"Bearer hf_secret"}
    stored = finished_world / "runs/tiny/adapters/round-02/adapter_model.safetensors"
    assert hub.commits[0]["adapter_model.safetensors"] == stored.read_bytes()
    assert json.loads(hub.commits[0]["adapter_config.json"])["base_model_name_or_path"] == "student"
    assert b"library_name: peft" in hub.commits[0]["README.md"]
    kept = [path for path in (finished_world / "runs").rglob("*") if path.is_file()]
    assert not [path for path in kept if b"hf_secret" in path.read_bytes()]


def test_a_hub_that_refuses_is_one_line_and_model_has_a_card(
    finished_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_uploads(status=403) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        out = tmp_path / "model"
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        result = reflectune("publish", "tiny", *TO, "--what", "model", "-o", out, cwd=finished_world)
    assert result.returncode == 2
    assert "ann/tiny-recycled: the hub did not take it: " in result.stderr
    assert result.stderr.count("\n") == 1
    assert (out / "model.safetensors").is_file()
    head, _ = card_of(out)
    assert (head["library_name"], "base_model" in head) == ("transformers", False)


@pytest.mark.parametrize("model", ["org/model", "/gone/model"])
def test_a_card_names_a_base_of_the_hub_and_no_path(finished_world: Path, tmp_path: Path, model: str) -> None:
    world = copy_world(finished_world, tmp_path / "world")
    with sqlite3.connect(world / "runs/tiny/lineage.db") as db:
        db.execute("UPDATE runs SET config = json_set(config, '$.student.model', ?)", [model])
        db.execute("DELETE FROM evaluations")
    (world / "runs/tiny/config.toml").unlink()
    out = tmp_path / "out"
    as_json(world, "publish", "tiny", *TO, "--what", "adapter", "--dry-run", "-o", out)
    assert card_of(out)[0].get("base_model") == (model if model == "org/model" else None)
    text = (out / "README.md").read_text()
    assert "/gone" not in text
    assert "Accepted are rewrites" in text
    assert "Held-out measures are on" not in text


def test_a_hub_that_is_not_there_is_one_line(finished_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_uploads() as hub:
        pass
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    line = refused(finished_world, "publish", "tiny", *TO, "--what", "adapter")
    assert "ann/tiny-recycled: the hub did not take it: " in line


def test_cards_are_packaged() -> None:
    assert {path.name for path in (ROOT / "loop/cards").iterdir()} == {
        "adapter.md", "data.md", "measures.md", "model.md"
    }  # fmt: skip
