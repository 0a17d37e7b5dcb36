"""Students with 4-bit weights. `make test` has bitsandbytes on the path of the tests that run alone."""

import json
from importlib.util import find_spec

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from reflectune.agents.models import open_model
from reflectune.agents.student.first_token import predict_first
from reflectune.agents.student.refinetune import check_refinetune
from reflectune.agents.student.student import Student
from reflectune.agents.student.targets import Encoded
from reflectune.state.errors import StudentError
from reflectune.state.records import Pair
from tests.test_refinetune import configure
from tests.tiny_models import save_tiny_llama
from tests.worlds import reflectune, write_world

HERE = find_spec("bitsandbytes") is not None
WIDTH = 64  # on CPUs with AVX512-BF16 bitsandbytes packs the weights of so many inputs together


def four_bit(test):
    """Of a test that needs bitsandbytes."""
    reason = "no bitsandbytes on the path: `make test` runs this with it"
    return pytest.mark.alone(pytest.mark.skipif(not HERE, reason=reason)(test))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny", width=WIDTH)


def open_plainly(model):
    """What transformers makes of the same weights, and no adapter."""
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="float32",
    )
    how = {"dtype": torch.float32, "quantization_config": settings, "device_map": {"": "cpu"}}
    return AutoModelForCausalLM.from_pretrained(model, **how)


@pytest.mark.skipif(HERE, reason="bitsandbytes is here")
def test_four_bit_student_without_bitsandbytes_is_refused(folder):
    config = configure(folder, student={"load_in_4bit": True, "device": "cpu"})
    for refused in (lambda: Student.open(config.student), lambda: check_refinetune(config)):
        with pytest.raises(StudentError, match="needs bitsandbytes; `pip install bitsandbytes`"):
            refused()


@four_bit
def test_four_bit_scores_are_those_of_the_four_bit_weights(folder):
    config = configure(folder, student={"load_in_4bit": True, "device": "cpu"}).student
    pair = Pair("Add 1 and 2.", "", "The sum is 3.")
    with Student.open(config) as student:
        (score,) = student.score([(pair, "response_given_instruction")])
        (text,) = student._pairs.encode([(pair, "response_given_instruction")])
    assert isinstance(text, Encoded)
    sums = []
    for model in (open_plainly(folder), open_model(configure(folder).student)):
        with torch.no_grad():
            logprobs = model(torch.tensor([text.ids])).logits[0].double().log_softmax(-1)
        places = range(text.first_target, len(text.ids))
        sums.append(sum(float(logprobs[place - 1, text.ids[place]]) for place in places))
    assert score.sum_logprob == pytest.approx(sums[0], abs=1e-4)
    assert abs(sums[0] - sums[1]) > 1e-2  # the weights are others


@four_bit
def test_four_bit_student_scores_trains_and_writes_in_a_whole_run(tmp_path):
    config = write_world(tmp_path, samples=12, student={"load_in_4bit": True, "device": "cpu"})
    config.write_text(config.read_text().replace("rounds = 2", "rounds = 1"))
    save_tiny_llama(tmp_path / "student", width=WIDTH)
    assert reflectune("run", config, cwd=tmp_path).returncode == 0
    shown = json.loads(reflectune("show", "tiny", "--json", cwd=tmp_path).stdout)
    assert [each["round"] for each in shown["rounds"]] == [0, 1]
    assert "load_in_4bit = true" in (tmp_path / "runs" / "tiny" / "config.toml").read_text()
    assert reflectune("verify", "tiny", cwd=tmp_path).returncode == 0


@four_bit
def test_first_token_alone_is_predicted_in_float32_on_four_bit_weights(folder):
    settings = {"load_in_4bit": True, "device": "cpu", "dtype": "bfloat16"}
    model = open_model(configure(folder, student=settings).student)
    layers = [part for part in model.modules() if hasattr(part, "compute_dtype")]
    formats = []
    for layer in layers:
        layer.register_forward_hook(
            lambda part, given, output: formats.append((part.compute_dtype, output.dtype))
        )
    before = model(torch.tensor([[0]])).logits
    assert set(formats) == {(torch.bfloat16, torch.bfloat16)}
    formats.clear()
    assert predict_first(model, 0) is not None
    assert formats == [(torch.float32, torch.float32)] * len(layers)
    assert torch.equal(model(torch.tensor([[0]])).logits, before)  # it is as it was
