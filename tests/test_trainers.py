import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from tokenizers.processors import TemplateProcessing

from reflectune.agents.student.rendering import Renderer
from reflectune.agents.student.steps import encode_pairs
from reflectune.agents.student.student import StudentBase, open_encoder
from reflectune.loop.trainers import TRAINERS, write_for_trainer
from reflectune.state.config import RunConfig, parse_config
from reflectune.state.data.exports import Exported, write_records
from reflectune.state.errors import ConfigError, DatasetError, StoreError
from reflectune.state.records import Pair, Turn
from tests.tiny_models import byte_level_tokenizer, save_tiny_llama

CONTEXT = (Turn("user", "Hi"), Turn("assistant", "Hello!"))
PAIRS = [
    Pair("Add.", "1 2", "The sum is 3."),
    Pair("Name a colour.", "", " Blue"),
    Pair("And another?", "", "Red.", CONTEXT),
]
RECORDS = [
    Exported.of_pair(pair, rejected=lost, meta={"id": 7}, sample_ids=(name,))
    for pair, lost, name in zip(PAIRS, ("4", "Green", "None."), "abc", strict=True)
]


def run_config(model: Path, template: str, **student: Any) -> RunConfig:
    values = {
        "name": "run",
        "data": {"path": "data.json"},
        "teacher": {"engine": "transformers", "model": str(model)},
        "student": {"model": str(model), "template": template, "max_length": 256, "device": "cpu", **student},
        "refinetune": {"r": 4, "alpha": 8, "lr": 1e-3, "epochs": 2, "batch_tokens": 64},
    }
    return parse_config(values, "run")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Chat models: one whose tokenizer adds nothing to a text, one whose tokenizer puts BOS in front."""
    folder = tmp_path_factory.mktemp("models")
    found = {name: save_tiny_llama(folder / name, chat=True) for name in ("bare", "adds")}
    tokenizer = byte_level_tokenizer(chat=True)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    tokenizer.save_pretrained(found["adds"])
    return found


def preferences() -> list[Exported]:
    return RECORDS


def pairs() -> list[Exported]:
    return [Exported.of_pair(pair) for pair in PAIRS]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_trainer_gets_its_columns_and_the_settings_of_the_run(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    config = run_config(models["bare"], "plain")
    written = {
        name: write_for_trainer(tmp_path / name, name, config, pairs, is_preferences=False)
        for name in TRAINERS
    }
    assert {number for number, _ in written.values()} == {3}
    prompt = "<s>### Instruction\nAdd.\n\n### Input\n1 2\n\n### Response\n"
    completion = "The sum is 3.</s>"
    assert rows_of(tmp_path / "trl" / "train.jsonl")[0] == {"prompt": prompt, "completion": completion}
    assert rows_of(tmp_path / "llama-factory" / "train.jsonl")[0] == {
        "instruction": prompt,
        "output": completion,
    }
    segments = [{"label": False, "text": prompt}, {"label": True, "text": completion}]
    assert rows_of(tmp_path / "axolotl" / "train.jsonl")[0] == {"segments": segments}
    said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    assert pq.read_table(tmp_path / "verl" / "train.parquet").to_pylist()[0] == {"messages": said}
    settings = {name: yaml.safe_load((tmp_path / name / "train.yaml").read_text()) for name in TRAINERS}
    rates = (
        settings["verl"]["optim"]["lr"],
        *(settings[name]["learning_rate"] for name in settings if name != "verl"),
    )
    assert set(rates) == {1e-3}
    ranks = settings["verl"]["model"]["lora_rank"], settings["llama-factory"]["lora_rank"]
    assert {*ranks, settings["trl"]["lora_r"], settings["axolotl"]["lora_r"]} == {4}
    info = json.loads((tmp_path / "llama-factory" / "dataset_info.json").read_text())
    assert info["train"]["file_name"] == "train.jsonl"


def test_full_fine_tuning_goes_by_the_papers(tmp_path: Path, models: dict[str, Path]) -> None:
    config = run_config(models["bare"], "plain")
    write_for_trainer(tmp_path, "trl", config, pairs, is_preferences=False, full=True)
    settings = yaml.safe_load((tmp_path / "train.yaml").read_text())
    batch = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    assert (settings["learning_rate"], settings["num_train_epochs"], batch) == (2e-5, 3, 128)
    assert "use_peft" not in settings


@pytest.mark.parametrize(
    ("times", "rows", "passes"), [(0.1, 1, 1), (3, 3, 1), (4, 4, 1), (7.4, 4, 1), (250, 4, 62)]
)
def test_a_step_has_as_many_rows_as_its_tokens_say(
    tmp_path: Path, models: dict[str, Path], times: float, rows: int, passes: int
) -> None:
    """A step of so many times the tokens of a pair; passes are whole."""
    config = run_config(models["bare"], "plain")
    renderer = Renderer(config.student)
    mean = sum(renderer.count(str(renderer.render(pair))) for pair in PAIRS) / 3
    refinetune = config.refinetune.model_copy(update={"batch_tokens": times * mean})
    config = config.model_copy(update={"refinetune": refinetune})
    write_for_trainer(tmp_path, "trl", config, pairs, is_preferences=False)
    settings = yaml.safe_load((tmp_path / "train.yaml").read_text())
    step = settings["per_device_train_batch_size"], settings["gradient_accumulation_steps"]
    assert step == (rows, passes)


def test_ids_and_given_fields_come_along(tmp_path: Path, models: dict[str, Path]) -> None:
    config = run_config(models["bare"], "chat")
    write_for_trainer(tmp_path, "axolotl", config, preferences, is_preferences=True, also=["meta", "ids"])
    row = rows_of(tmp_path / "train.jsonl")[0]
    assert (row["id"], row["sample_ids"]) == (7, ["a"])
    assert (row["chosen"], row["rejected"]) == ("The sum is 3.</s>", "4</s>")


def test_conversations_come_as_a_refinetune_trains_on_them(tmp_path: Path, models: dict[str, Path]) -> None:
    """The oldest turns go where all are too long; earlier answers are rows too if the run trains on them."""
    turns = tuple(Turn(role, f"{role} {n} " * 3) for n in range(4) for role in ("user", "assistant"))
    records = [Exported.of_pair(Pair("Go on.", "", "Gone.", turns))]
    config = run_config(models["bare"], "chat", max_length=190)
    write_for_trainer(tmp_path / "last", "trl", config, lambda: records, is_preferences=False)
    (row,) = rows_of(tmp_path / "last/train.jsonl")
    assert "user 0" not in row["prompt"]
    assert "user 3" in row["prompt"]
    assert Renderer(config.student).count(row["prompt"] + row["completion"]) <= 190
    lost = [replace(records[0], rejected=Turn("assistant", "Gone. " * 12))]
    write_for_trainer(tmp_path / "lost", "trl", config, lambda: lost, is_preferences=True)
    (shorter,) = rows_of(tmp_path / "lost/train.jsonl")
    assert len(shorter["prompt"]) < len(row["prompt"])
    assert Renderer(config.student).count(shorter["prompt"] + shorter["rejected"]) <= 190
    refinetune = config.refinetune.model_copy(update={"turns": "all"})
    config = config.model_copy(update={"refinetune": refinetune})
    write_for_trainer(tmp_path / "all", "trl", config, lambda: records, is_preferences=False)
    rows = rows_of(tmp_path / "all/train.jsonl")
    assert rows[0] == row
    assert [each["completion"].split("</s>")[0] for each in rows[1:]] == [
        turn.content for turn in turns if turn.role == "assistant"
    ]


def test_what_a_trainer_cannot_take_is_one_line(tmp_path: Path, models: dict[str, Path]) -> None:
    config = run_config(models["bare"], "plain")
    with pytest.raises(ConfigError, match="--for verl: its SFT trainer takes no preferences"):
        write_for_trainer(tmp_path / "x", "verl", config, preferences, is_preferences=True)
    with pytest.raises(DatasetError, match="nothing to train on"):
        write_for_trainer(tmp_path / "x", "trl", config, list, is_preferences=False)
    assert not (tmp_path / "x").exists()
    (tmp_path / "x").write_text("mine")
    with pytest.raises(StoreError, match=r"x: .*File exists.*; name another folder, then export again"):
        write_for_trainer(tmp_path / "x", "trl", config, lambda: RECORDS, is_preferences=False)
    assert (tmp_path / "x").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(("model", "template"), [("bare", "plain"), ("adds", "plain"), ("adds", "chat")])
def test_trl_sees_the_tokens_of_a_refinetune_and_trains(
    tmp_path: Path, models: dict[str, Path], model: str, template: str
) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed: its trainers were not tried")
    config = run_config(models[model], template)
    write_for_trainer(tmp_path, "trl", config, pairs, is_preferences=False)
    trainer = trl_trainer(trl, tmp_path, trl.SFTConfig, trl.SFTTrainer)
    base = StudentBase(config.student)
    opened, tokenizer, prompts = base.open()
    encoder = open_encoder(opened, tokenizer, prompts, config.student)
    texts, _, _ = encode_pairs(encoder, prompts, prompts.end_id(tokenizer), PAIRS)
    for row, text in zip(trainer.train_dataset, (texts[index] for index in range(3)), strict=True):
        assert row["input_ids"] == text.ids
        assert [label != -100 for label in row["labels"]].index(True) == text.first_target
    assert trainer.train().global_step == 2


@pytest.mark.slow
def test_trl_trains_on_preferences(tmp_path: Path, models: dict[str, Path]) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed: its trainers were not tried")
    config = run_config(models["adds"], "chat")
    write_for_trainer(tmp_path, "trl", config, preferences, is_preferences=True)
    trainer = trl_trainer(trl, tmp_path, trl.DPOConfig, trl.DPOTrainer)
    row = trainer.train_dataset[0]
    decode = trainer.processing_class.decode
    assert decode(row["prompt_ids"]) == "<s><user>Add.\n\n1 2\n<assistant>"
    assert (decode(row["chosen_ids"]), decode(row["rejected_ids"])) == ("The sum is 3.</s>", "4</s>")
    assert trainer.train().global_step == 2


@pytest.mark.slow
def test_trl_trains_on_the_new_pair_beside_given_fields(tmp_path: Path, models: dict[str, Path]) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed: its trainers were not tried")
    old = [{"role": "user", "content": "Old?"}, {"role": "assistant", "content": "Old."}]
    given = {"text": "Old.", "messages": old, "prompt": "Old?", "completion": " Old.", "input_ids": [3, 4]}
    record = Exported.of_pair(PAIRS[0], meta=given)
    write_records(tmp_path / "out.parquet", "messages", lambda: [record], also=["meta"])
    data = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"))
    settings = trl.SFTConfig(str(tmp_path / "trained"), use_cpu=True, report_to="none")
    trainer = trl.SFTTrainer(str(models["bare"]), settings, train_dataset=data)
    text = trainer.processing_class.decode(trainer.train_dataset[0]["input_ids"])
    assert text == "<s><user>Add.\n\n1 2\n<assistant>The sum is 3.</s>"


def trl_trainer(trl: Any, folder: Path, arguments: type, trainer: type) -> Any:
    """TRL's trainer by the config that was written, read as its command reads it; two steps on the CPU."""
    kinds = (trl.ScriptArguments, arguments, trl.ModelConfig, trl.DatasetMixtureConfig)
    told = [
        "--config",
        str(folder / "train.yaml"),
        "--max_steps",
        "2",
        "--use_cpu",
        "true",
        "--report_to",
        "none",
    ]
    with contextlib.chdir(folder):
        _, settings, model, mixture = trl.TrlParser(kinds).parse_args_and_config(told)
        settings.output_dir = str(folder / "trained")
        return trainer(
            model=model.model_name_or_path,
            args=settings,
            train_dataset=trl.get_dataset(mixture)["train"],
            peft_config=trl.get_peft_config(model),
        )
