"""Students as one model: what is written is the base with the adapter, and other programs open it."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from reflectune.agents.models import open_model
from reflectune.agents.student.merging import merge_student
from reflectune.agents.student.student import Student
from reflectune.loop.merging import merge_round
from reflectune.state.config import StudentConfig
from reflectune.state.errors import AdapterError, ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.records import Pair, Term
from tests.test_four_bit import WIDTH, four_bit
from tests.tiny_models import save_tiny_adapter, save_tiny_model
from tests.worlds import copy_world, reflectune

PAIR = Pair("Add 1 and 2.", "", "The sum is 3.")
TARGETS: list[tuple[Pair, Term]] = [
    (PAIR, "response_given_instruction"),
    (PAIR, "instruction_given_response"),
]


def save_base(folder: Path, architecture: str = "llama", dtype: torch.dtype = torch.float32) -> Path:
    """A base in a number format, with settings for sampling that is off, as some Llamas have them."""
    save_tiny_model(folder, architecture, chat=True, width=WIDTH)
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "eos_token_id": 1}))
    return folder


def student_of(folder: Path, **changes: Any) -> StudentConfig:
    return StudentConfig(**{"model": str(folder), "device": "cpu", "dtype": "float32"} | changes)


def save_adapter(folder: Path, base: Path) -> Path:
    return save_tiny_adapter(folder, open_model(student_of(base)))


def sums(config: StudentConfig, adapter: Path | None = None) -> list[float]:
    """Log-likelihoods of both targets."""
    with Student.open(config, adapter) as student:
        return [score.sum_logprob or 0.0 for score in student.score(TARGETS)]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_merged_model_is_base_and_adapter_to_whoever_opens_it(architecture: str, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", architecture)
    adapter = save_adapter(tmp_path / "adapter", base)
    assert merge_student(student_of(base), adapter, tmp_path / "out", shard="100KB") == "float32"
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    merged, tokenizer, given = (
        kind.from_pretrained(folder)
        for kind, folder in (
            (AutoModelForCausalLM, tmp_path / "out"),
            (AutoTokenizer, tmp_path / "out"),
            (AutoTokenizer, base),
        )
    )
    messages = [{"role": "user", "content": "Add 12 and 30."}]
    ids, theirs = (
        kind.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        for kind in (tokenizer, given)
    )
    assert ids == theirs
    with torch.no_grad():
        found, wanted = (model(torch.tensor([ids])).logits for model in (merged, expected))
        with expected.disable_adapter():
            without = expected(torch.tensor([ids])).logits
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)
    assert (without - wanted).abs().max() > 0.1
    assert merged.generation_config.temperature == 0.6
    assert {1, tokenizer.eos_token_id} <= {*merged.generation_config.eos_token_id}


@pytest.mark.slow
def test_merged_model_ends_as_it_was_trained_and_has_its_processors(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}>"
    tokenizer.save_pretrained(base)
    (base / "processor_config.json").write_text("{}")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer))
    model.generation_config.do_sample = True  # or it would not be saved
    model.save_pretrained(base)
    adapter = save_adapter(tmp_path / "adapter", base)
    merge_student(student_of(base), adapter, tmp_path / "out")
    ends = json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in ends
    assert (tmp_path / "out/processor_config.json").read_text() == "{}"


@pytest.mark.slow
def test_merged_weights_are_rounded_once_to_the_format_of_the_base(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", dtype=torch.bfloat16)
    adapter = save_adapter(tmp_path / "adapter", base)
    assert merge_student(student_of(base), adapter, tmp_path / "out") == "bfloat16"
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    whole = PeftModel.from_pretrained(whole, str(adapter))
    expected = {name: value.bfloat16() for name, value in whole.merge_and_unload().state_dict().items()}
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@four_bit
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_merged_weights_of_a_base_in_four_bits_are_what_the_adapter_was_trained_on(
    architecture: str, tmp_path: Path
) -> None:
    base = save_base(tmp_path / "base", architecture)
    adapter = save_adapter(tmp_path / "adapter", base)
    student = student_of(base, load_in_4bit=True)
    merge_student(student, adapter, tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    expected, whole = sums(student, adapter), sums(student_of(base), adapter)
    found = sums(student_of(tmp_path / "out"))
    for number, (sum, other) in enumerate(zip(expected, whole, strict=True)):
        # Some CPUs multiply four bits in bfloat16.
        assert abs(found[number] - sum) < 0.3 * abs(found[number] - other)


def test_nothing_is_left_of_a_merge_that_fails_and_nothing_is_written_over(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    with pytest.raises(AdapterError, match="no adapter here"):
        merge_student(student_of(base), tmp_path / "adapter", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]
    with pytest.raises(ConfigError, match="there is something already; name a folder that is new or empty"):
        merge_student(student_of(base), tmp_path / "adapter", base)


@pytest.mark.slow
def test_merge_writes_the_student_of_a_round(finished_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = reflectune("merge", "tiny", "--round", "1", "-o", out, "--json", cwd=finished_world)
    assert done.returncode == 0, done.stderr
    run = RunFolder.find(finished_world / "runs", "tiny")
    student = student_of(finished_world / "student", template="plain")
    assert json.loads(done.stdout) == {
        "name": "tiny",
        "round": 1,
        "student": "s1",
        "out": str(out),
        "base_model": str(finished_world / "student"),
        "dtype": "float32",
        "load_in_4bit": False,
        "template": "plain",
    }
    found, expected = sums(student_of(out, template="plain")), sums(student, run.adapter(1))
    assert found == pytest.approx(expected, abs=1e-3)
    assert sums(student) != pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_only_the_base_of_a_student_need_be_what_it_was(finished_world: Path, tmp_path: Path) -> None:
    world = copy_world(finished_world, tmp_path / "world")
    # As a run whose policy is a function of the user's own, which is not there any more.
    with sqlite3.connect(world / "runs/tiny/lineage.db") as db:
        changes = "'$.selection.policy', 'gone:value', '$.student.model', ?"
        db.execute(f"UPDATE runs SET config = json_set(config, {changes})", [str(world / "student")])
    (world / "runs/tiny/config.toml").unlink()
    done = reflectune("merge", "tiny", "-o", tmp_path / "out", cwd=world)
    assert done.returncode == 0, done.stderr
    (world / "student/config.json").write_text((world / "student/config.json").read_text() + " ")
    for command in (
        ("merge", "tiny", "-o", tmp_path / "other"),
        ("answer", "tiny", "data.json", "-o", tmp_path / "answers.json"),
        ("signal", "tiny"),
    ):
        refused = reflectune(*command, cwd=world)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "was changed since the run began" in refused.stderr


def test_merge_refuses_what_was_not_trained(finished_world: Path, tmp_path: Path) -> None:
    world = copy_world(finished_world, tmp_path / "world")
    run = RunFolder.find(world / "runs", "tiny")
    with LoopReader.open(run.lineage) as lineage:
        for round, why in ((0, "the student of round 0 is its base model"), (7, "round 7 has no student")):
            with pytest.raises(ConfigError, match=why):
                merge_round(run, lineage, round, tmp_path / "out")
        (run.adapter(1) / "adapter_model.safetensors").write_bytes(b"")
        with pytest.raises(AdapterError, match="is not the adapter that was trained"):
            merge_round(run, lineage, 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()
