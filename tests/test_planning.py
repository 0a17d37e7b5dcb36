"""Plans by hand-worked numbers: a 7B student with Alpaca-like pairs, and what fits where."""

from pathlib import Path

import pytest

from reflectune.agents.model_size import ModelSize, measure_size
from reflectune.loop.planning import GPUS, Lengths, Plan, TeacherLoad, find_gpus, plan_run, scored_tokens
from reflectune.state.config import StudentConfig
from reflectune.state.errors import ConfigError
from reflectune.state.policies import POLICIES
from tests.test_cli import as_json, printed
from tests.worlds import write_world

SEVEN = ModelSize(parameters=7 * 10**9, weight_bytes=14 * 10**9, cache_bytes=2**19)


def plan(on: str, student: ModelSize = SEVEN, teacher: TeacherLoad | None = None, **other: object) -> Plan:
    given = {
        "rounds": 2,
        "samples": 10**6,
        "tokens_per_sample": 640.0,
        "trained_tokens": 3e8,
        "recomputes": False,
    }
    return plan_run(on, student=student, teacher=teacher, **{**given, **other})  # type: ignore[arg-type]


def test_gpus_are_read_by_number_and_name() -> None:
    assert [find_gpus(on) for on in ("8xH100", "h200", "2 x rtx 4090", "1xA100-80gb")] == [
        (8, "H100"),
        (1, "H200"),
        (2, "RTX-4090"),
        (1, "A100-80GB"),
    ]
    for on in ("8xH1000", "0xH100", "", "2x8xH100", "x"):
        with pytest.raises(ConfigError, match="want NxNAME, such as 8xH100, of A100-40GB"):
            find_gpus(on)


def test_scored_tokens_are_those_of_the_policy_and_the_filter() -> None:
    lengths = Lengths(instruction=20.0, response=80.0)
    # instruction: 2 pairs x (100 + 80); response: 2 pairs x (100 + 20); then IFD's 100 + 80 of the winner
    assert scored_tokens(POLICIES["ifd+r-ifd"], lengths, 1) == 360 + 240 + 180
    assert scored_tokens(POLICIES["ifd+r-ifd"], lengths, 1, follows=0.5) == 180 + 240 + 180
    # nothing is compared: each of 3 proposals is asked once, in either phase; the filter asks the other three
    assert scored_tokens(POLICIES["random"], lengths, 3) == 300 + 300 + (80 + 100 + 20)


def test_hours_by_hand() -> None:
    one, eight = plan("1xH100"), plan("8xH100")
    # 989e12 x 0.4 FLOPs a second over 2 x 7e9 x 640 FLOPs a sample
    assert one["samples_per_second"] == pytest.approx(44.15, abs=0.01)
    assert one["hours_per_round"]["scoring"] == pytest.approx(6.29, abs=0.01)  # 1e6 / 44.15 / 3600
    # 4 x 7e9 x 3e8 FLOPs over 989e12 x 0.3 a second
    assert one["hours_per_round"]["training"] == pytest.approx(7.864, abs=0.01)
    assert one["hours"]["scoring"] == pytest.approx(2 * 6.29, abs=0.02)
    assert eight["hours_per_round"]["scoring"] == pytest.approx(6.29 / 8, abs=0.01)
    assert one["hours"]["teacher"] is None
    assert eight["scale"]["teachers"] is None
    assert (eight["scale"]["students"], eight["scale"]["trainers"]) == (8, 8)


def test_layers_computed_again_take_half_as_long_again() -> None:
    once, again = (plan("H100", recomputes=it)["hours"]["training"] for it in (False, True))
    assert once
    assert again == pytest.approx(1.5 * once)


def test_a_local_teacher_by_bandwidth_and_batch() -> None:
    # 1000 tokens of one call: 1000 x 2^19 bytes, so that 90 % of 80 GB less 14 GB hold 110 calls of the 256
    teacher = TeacherLoad(SEVEN, 10**5, prompt_tokens=600.0, completion_tokens=400.0, at_once=256, gpus=None)
    found = plan("2xH100", teacher=teacher)
    assert (found["scale"]["teachers"], found["scale"]["gpus_per_teacher"]) == (2, 1)
    # a step reads 14e9 + 110 x 0.524288e9 bytes at 3350e9 x 0.5 a second: 42.79 ms, and 400 of them 17.12 s
    # for 110 calls, 155.6 ms each; a prompt is 2 x 7e9 x 600 FLOPs at 395.6e12: 21.2 ms
    assert found["hours_per_round"]["teacher"] == pytest.approx(
        10**5 * (0.1556 + 0.0212) / 2 / 3600, rel=0.002
    )


def test_what_does_not_fit_is_not_planned() -> None:
    large = ModelSize(parameters=70 * 10**9, weight_bytes=140 * 10**9, cache_bytes=2**18)
    found = plan("8xH100", large, TeacherLoad(large, 100, 10.0, 10.0, 16, None))
    assert found["hours"]["scoring"] is found["hours"]["training"] is found["scale"]["students"] is None
    # 140 GB over 0.8 x 80 GB: 2.2 GPUs, so 4 each
    assert (found["scale"]["gpus_per_teacher"], found["scale"]["teachers"]) == (4, 2)
    assert plan("2xH100", large, TeacherLoad(large, 100, 10.0, 10.0, 16, None))["hours"]["teacher"] is None
    assert plan("8xH100", large, TeacherLoad(large, 100, 10.0, 10.0, 16, 2))["scale"]["teachers"] is None
    assert plan("1xB200", large)["scale"]["students"] == 1  # 144 of its 180 GB


def test_the_size_of_a_model_by_its_config(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    write_world(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student", dtype=torch.float32)
    parameters = model.num_parameters()
    for file in (tmp_path / "student").glob("*.safetensors"):
        file.unlink()  # no weights are opened
    size = measure_size(StudentConfig(model=str(tmp_path / "student")))
    assert (size.parameters, size.weight_bytes) == (parameters, 2 * parameters)
    exact = measure_size(StudentConfig(model=str(tmp_path / "student"), dtype="float32"))
    assert exact.weight_bytes == 4 * parameters
    packed = measure_size(StudentConfig(model=str(tmp_path / "student"), load_in_4bit=True))
    embedded = model.get_input_embeddings().weight.numel()
    assert 2 * embedded < packed.weight_bytes < size.weight_bytes
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert size.cache_bytes == 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * width


@pytest.mark.slow
def test_estimate_on_gpus_shows_its_plan(tmp_path: Path) -> None:
    write_world(tmp_path, teacher={"engine": "vllm", "model": "self", "path": None})
    assert as_json(tmp_path, "estimate", "config.toml")["plan"] is None
    document = as_json(tmp_path, "estimate", "config.toml", "--on", "2xl4")
    found = document["plan"]
    assert found["on"] == "2xL4"
    assert found["gpu"]["memory_gb"] == GPUS["L4"].memory_gb
    assert found["scale"] == {"students": 2, "trainers": 2, "teachers": 2, "gpus_per_teacher": 1}
    assert all(each > 0 for each in found["hours"].values())
    assert any("GPUs reach 40 %" in line for line in document["assumptions"])
    told = " ".join(printed(tmp_path, "estimate", "config.toml", "--on", "2xl4").split())
    assert "on 2xL4, 24 GB each" in told
    assert "in [scale]: students = 2, trainers = 2, teachers = 2" in told
    write_world(tmp_path)
    assert "teacher by its server or recording" in " ".join(
        printed(tmp_path, "estimate", "config.toml", "--on", "L4").split()
    )
