import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from reflectune.agents import models
from reflectune.agents.student.formulas import ifd, nll, r_ifd
from reflectune.agents.student.student import Student, StudentBase
from reflectune.agents.student.templates import check_student
from reflectune.state.config import StudentConfig
from reflectune.state.errors import AdapterError, StudentError
from reflectune.state.records import TERMS, Pair, Score
from tests.bench.reference import TOLERANCE, measure_differences
from tests.bench.results import SHARED
from tests.tiny_models import (
    letter_tokenizer,
    save_bigram_llama,
    save_tiny_adapter,
    save_tiny_llama,
    save_tiny_model,
)

PAIR = Pair("Name three colours.", "", "Red, yellow and blue.")
WITH_INPUT = Pair("Add.", "12 and 30", "The sum is 42.")
# Next letter by the one before: log-probabilities that can be worked out by hand.
TABLE = {
    "<s>": {"a": 1 / 2, "b": 1 / 4, "|": 1 / 4},
    "|": {"a": 1 / 4, "b": 1 / 2, "|": 1 / 4},
    "a": {"b": 1 / 8, "a": 7 / 8},
    "b": {"a": 1 / 4, "b": 3 / 4},
}
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny", chat=True)


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of the tiny model's folder, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def adapter(folder, tmp_path):
    return save_tiny_adapter(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(folder))


def configure(folder, **values):
    return StudentConfig(**({"model": str(folder), "template": "plain", "threads": 1} | values))


def questions(*pairs):
    return [(pair, term) for pair in pairs for term in TERMS]


def by_term(scores):
    return dict(zip(TERMS, scores, strict=True))


@pytest.fixture
def letters(tmp_path):
    """A student that goes by a table; P(x) = x and "|", R(y) = y and "|", x with input = both in a row."""
    template = tmp_path / "letters.toml"
    template.write_text(
        'prompt = "{instruction}|"\nprompt_with_input = "{instruction}{input}|"\nreverse = "{response}|"\n'
        'target_with_input = "{instruction}{input}"\n',
        encoding="utf-8",
    )

    def open_letters(table=TABLE, **values):
        model = save_bigram_llama(tmp_path / "bigram", "ab|", table)
        return Student.open(configure(model, template=str(template), **values))

    return open_letters


def test_score_of_a_cut_target_compares_the_same_tokens(letters):
    # Behind <s> and x| or y|, five letters, 8 tokens leave two of a target.
    with letters(max_length=8) as student:
        scores = by_term(student.score(questions(Pair("abab", "", "baab"))))
        whole = by_term(student.score(questions(Pair("a", "", "ba"))))
    assert {(score.num_tokens, score.truncated) for score in scores.values()} == {(2, True)}
    # log p(b||) + log p(a|b) against log p(b|<s>) + log p(a|b): log 8 and log 16 over 2 tokens.
    assert ifd(scores) == pytest.approx(math.sqrt(8 / 16), abs=1e-5)
    # log p(a||) + log p(b|a) against log p(a|<s>) + log p(b|a): log 32 and log 16 over 2 tokens.
    assert r_ifd(scores) == pytest.approx(math.sqrt(32 / 16), abs=1e-5)
    assert not any(score.truncated for score in whole.values())


def test_score_gives_the_ifd_worked_out_by_hand(letters):
    # Letters as tokens, next letter by TABLE: x = "ab", y = "ba", P(x) = "ab|", R(y) = "ba|".
    with letters() as student:
        scores = by_term(student.score(questions(Pair("ab", "", "ba"))))
    # nll(y|x) = -(log p(b||) + log p(a|b)) / 2 = (log 2 + log 4) / 2
    assert nll(scores, "response_given_instruction") == pytest.approx(math.log(8) / 2, abs=1e-5)
    # nll(y) = -(log p(b|<s>) + log p(a|b)) / 2 = (log 4 + log 4) / 2
    assert nll(scores, "response_alone") == pytest.approx(math.log(16) / 2, abs=1e-5)
    # nll(x|y) = -(log p(a||) + log p(b|a)) / 2 = (log 4 + log 8) / 2
    assert nll(scores, "instruction_given_response") == pytest.approx(math.log(32) / 2, abs=1e-5)
    # nll(x) = -(log p(a|<s>) + log p(b|a)) / 2 = (log 2 + log 8) / 2
    assert nll(scores, "instruction_alone") == pytest.approx(math.log(16) / 2, abs=1e-5)
    # IFD = sqrt(8) / sqrt(16), r-IFD = sqrt(32) / sqrt(16)
    assert ifd(scores) == pytest.approx(math.sqrt(1 / 2), abs=1e-5)
    assert r_ifd(scores) == pytest.approx(math.sqrt(2), abs=1e-5)
    assert [score.num_tokens for score in scores.values()] == [2, 2, 2, 2]


def test_score_takes_the_input_into_x(letters):
    with letters() as student:
        scores = student.score(questions(Pair("ab", "ba", "b")))
    assert [score.num_tokens for score in scores] == [1, 1, 4, 4]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("bos", [True, False])
def test_score_in_one_pass_equals_each_alone(tmp_path, architecture, bos):
    model = save_tiny_model(tmp_path / "model", architecture, bos=bos)
    asked = questions(PAIR, WITH_INPUT, Pair("é😀", "", "\n\n"))
    with Student.open(configure(model)) as student:
        together = student.score(asked)
        alone = [student.score([question])[0] for question in asked]
    assert [score.num_tokens for score in together] == [score.num_tokens for score in alone]
    assert together[0].num_tokens == together[1].num_tokens  # of the response given and alone
    for one, other in zip(together, alone, strict=True):
        assert one.sum_logprob / one.num_tokens == pytest.approx(
            other.sum_logprob / other.num_tokens, abs=1e-5
        )


def test_score_says_why_it_could_not(folder):
    long = Pair("Name " + "three " * 90, "", "Red.")
    with Student.open(configure(folder, max_length=96)) as student:
        empty = by_term(student.score(questions(Pair("Name.", "", ""))))
        cut = by_term(student.score(questions(long)))
    assert empty["response_given_instruction"] == empty["response_alone"] == Score(None, None, "empty")
    assert empty["instruction_alone"].status == "ok"
    assert cut["response_given_instruction"] == Score(None, None, "truncated-away", truncated=True)
    assert cut["response_alone"].status == "truncated-away"
    assert cut["instruction_given_response"].truncated
    assert cut["instruction_alone"].num_tokens == cut["instruction_given_response"].num_tokens


def test_score_computes_equal_renderings_once(folder):
    other_response = Pair(PAIR.instruction, "", "Green.")
    with Student.open(configure(folder)) as student:
        passed = []
        student._model.model.register_forward_pre_hook(
            lambda module, args, kwargs: passed.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        scores = student.score([(pair, "instruction_alone") for pair in (PAIR, other_response, PAIR)])
        (once,) = passed
    assert scores[0] == scores[1] == scores[2]
    assert once == 1 + scores[0].num_tokens


def test_score_of_nothing_is_nothing(folder):
    with Student.open(configure(folder)) as student:
        assert student.score([]) == []
        assert student.respond([], 5) == []


def test_student_with_an_adapter_scores_otherwise(folder, adapter):
    with Student.open(configure(folder)) as base, Student.open(configure(folder), adapter) as adapted:
        one, other = base.score([(PAIR, "response_alone")]), adapted.score([(PAIR, "response_alone")])
    assert abs(one[0].sum_logprob - other[0].sum_logprob) > 0.1


def continue_greedily(folder, prompt, max_tokens, stops=(1,)):
    """The plain way: the whole text through the model for every token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    if ids[0] != tokenizer.bos_token_id:
        ids = [tokenizer.bos_token_id, *ids]
    written = []
    while len(written) < max_tokens:
        with torch.no_grad():
            token = int(model(torch.tensor([ids + written])).logits[0, -1].argmax())
        if token in stops:
            break
        written.append(token)
    return tokenizer.decode(written, skip_special_tokens=True), len(written)


@pytest.mark.parametrize("batch_tokens", [8, 2048])
def test_respond_continues_each_prompt_greedily(folder, batch_tokens):
    pairs = [Pair("Red", "", ""), WITH_INPUT, Pair("The sky is blue, the plural of mouse", "", "")]
    with Student.open(configure(folder, template="chat", batch_tokens=batch_tokens)) as student:
        responses = student.respond(pairs, 12)
        prompts = [student._template.prompt(pair) for pair in pairs]
    plain = [continue_greedily(folder, prompt, 12) for prompt in prompts]
    assert [(response.text, response.num_tokens) for response in responses] == plain


def test_respond_stops_at_eos_and_leaves_it_out(letters):
    table = {"|": {"a": 0.9, "b": 0.1}, "a": {"b": 0.9, "a": 0.1}, "b": {"</s>": 0.9, "a": 0.1}}
    with letters(table) as student:
        long, short = student.respond([Pair("ab", "", ""), Pair("a", "", "")], 50)
        (cut,) = student.respond([Pair("a", "", "")], 1)
    assert (long.text, long.num_tokens) == (short.text, short.num_tokens) == ("ab", 2)
    assert (cut.text, cut.num_tokens) == ("a", 1)


def test_respond_heeds_the_stop_ids_of_the_generation_config_and_nothing_else_of_it(copied):
    path = copied / "generation_config.json"
    settings = json.loads(path.read_text()) | {"repetition_penalty": 5.0, "do_sample": True, "top_k": 50}
    text, count = continue_greedily(copied, "### Instruction\nRed\n\n### Response\n", 6, stops=())
    path.write_text(json.dumps(settings))
    with Student.open(configure(copied)) as student:
        (response,) = student.respond([Pair("Red", "", "")], 6)
        assert (response.text, response.num_tokens) == (text, count)
        first = student._tokenizer(text, add_special_tokens=False).input_ids[0]
    path.write_text(json.dumps(settings | {"eos_token_id": [1, first]}))
    with StudentBase(configure(copied)) as base:
        for _ in range(2):  # a later student of the same base stops where the first one does
            with Student(base) as student:
                assert student.respond([Pair("Red", "", "")], 6)[0].num_tokens == 0


def test_respond_keeps_within_the_context(tmp_path):
    model = save_tiny_model(tmp_path / "gpt2", "gpt2", context=32)
    pairs = [Pair("Red", "", ""), Pair("Name " + "three " * 30, "", "")]
    with Student.open(configure(model, template="plain", max_length=2048)) as student:
        assert student._pairs.encoder.max_length == 32
        fitting, too_long = student.respond(pairs, 1000)
        (prompt,) = student._pairs.encoder.encode_prompts([student._template.prompt(pairs[0])])
    assert too_long is None
    assert fitting.num_tokens <= 32 - len(prompt)


def test_respond_out_of_memory_for_a_single_answer_says_what_to_do(folder, monkeypatch):
    with Student.open(configure(folder)) as student:

        def run_out(*args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(student._model, "generate", run_out)
        with pytest.raises(StudentError, match="writing a single answer; end what else uses"):
            student.respond([PAIR, WITH_INPUT], 5)


def test_student_takes_the_threads_asked_for_and_gives_its_model_back(folder):
    with Student.open(configure(folder, threads=2)) as student:
        assert torch.get_num_threads() == 2
    assert student._model is None


@pytest.mark.parametrize(("visible", "threads"), [(1, 1), (2, 2), (3, 2), (4, 2), (16, 8)])
def test_threads_default_to_half_the_visible_cpus(monkeypatch, visible, threads):
    chosen = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(visible)), raising=False)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    models.set_threads(None)
    assert chosen == [threads]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_open_takes_the_number_format_asked_for(copied, dtype, expected):
    weights = load_file(copied / "model.safetensors")
    save_file({name: value.bfloat16() for name, value in weights.items()}, copied / "model.safetensors")
    with Student.open(configure(copied, dtype=dtype)) as student:
        assert student._model.dtype == expected
        assert student.score([(PAIR, "response_alone")])[0].status == "ok"


def refused(config, message, error=StudentError, adapter=None):
    with pytest.raises(error, match=message) as caught:
        Student.open(config, adapter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "it has no config.json"),
        ("tokenizer.json", "it has no tokenizer.json"),
        ("model.safetensors", "no .*weights"),
    ],
)
def test_check_student_names_what_a_folder_lacks(copied, name, message):
    check_student(configure(copied))
    (copied / name).unlink()
    with pytest.raises(StudentError, match=message):
        check_student(configure(copied))
    refused(configure(copied), message)


def test_check_student_refuses_a_missing_folder_or_template_and_lets_a_hub_name_pass(folder, tmp_path):
    with pytest.raises(StudentError, match="no such model folder"):
        check_student(configure(tmp_path / "nothing"))
    with pytest.raises(StudentError, match="no such template"):
        check_student(configure(folder, template=str(tmp_path / "none.toml")))
    check_student(configure("someone/some-model"))


def test_check_student_loads_no_torch(folder):
    code = (
        "import sys; from reflectune.agents.student.templates import check_student; "
        "from reflectune.state.config import StudentConfig; "
        f"check_student(StudentConfig(model={str(folder)!r}, template='plain')); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_open_refuses_damaged_files(copied):
    weights = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    refused(configure(copied), "the model could not be opened")
    (copied / "tokenizer.json").write_text("{}")
    (copied / "tokenizer_config.json").write_text("{")
    refused(configure(copied), "the tokenizer could not be opened")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "models/no/such"}, r"models/no/such \(no folder here, so taken for a hub name\)"),
        ({"device": "no-such-device"}, r"student\.device = 'no-such-device' is not there"),
        ({"device": "cuda:99"}, r"student\.device = 'cuda:99' is not there"),
    ],
)
def test_open_refuses_what_is_not_there(folder, changes, message):
    refused(configure(folder, **changes), message)


def test_open_refuses_weights_that_would_be_left_random(copied):
    weights = load_file(copied / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copied / "model.safetensors")
    refused(configure(copied), "the weights lack 1 tensors, such as model.layers.1.mlp.up_proj.weight")


def test_open_refuses_a_tokenizer_with_more_tokens_than_the_model(copied):
    config = json.loads((copied / "config.json").read_text())
    big = letter_tokenizer("".join(chr(0x4E00 + index) for index in range(config["vocab_size"] - 256)))
    big.save_pretrained(copied)
    refused(configure(copied), "another model's tokenizer: 322 tokens, where the model knows 320")


@pytest.mark.parametrize("name", ["bos", "eos", "pad"])
def test_open_refuses_a_bos_or_eos_that_the_model_cannot_embed(copied, name):
    tokenizer = AutoTokenizer.from_pretrained(copied)
    tokenizer.add_special_tokens({f"{name}_token": "<new>"})
    tokenizer.save_pretrained(copied)
    if name == "pad":  # never used
        Student.open(configure(copied)).close()
    else:
        refused(
            configure(copied), f"its tokenizer's {name.upper()} is token 320, and the model knows 0 to 319"
        )


def test_open_refuses_a_slow_tokenizer(folder, monkeypatch):
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    refused(configure(folder), "its tokenizer is a slow one")


def test_open_without_a_chat_template_says_what_to_set(tmp_path):
    refused(configure(save_tiny_llama(tmp_path), template="chat"), 'set student.template = "plain"')


def cut_short(adapter):
    path = adapter / WEIGHTS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def widen(adapter):
    wide = {name: value.repeat(2, 2) for name, value in load_file(adapter / WEIGHTS).items()}
    save_file(wide, adapter / WEIGHTS)


def drop_a_layer(adapter):
    weights = load_file(adapter / WEIGHTS)
    del weights[min(weights)]
    save_file(weights, adapter / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda adapter: (adapter / WEIGHTS).unlink(), "no adapter here"),
        (lambda adapter: (adapter / "adapter_config.json").unlink(), "not a readable LoRA adapter"),
        (cut_short, "not a readable LoRA adapter"),
        (widen, "an adapter of another model"),
        (drop_a_layer, "1 of its weights have no counterpart"),
    ],
)
def test_open_refuses_a_damaged_adapter(folder, adapter, damage, message):
    damage(adapter)
    refused(configure(folder), message, AdapterError, adapter)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
def test_open_refuses_an_adapter_of_another_architecture(tmp_path, adapter, architecture):
    model = save_tiny_model(tmp_path / "other", architecture)
    other = AutoModelForCausalLM.from_pretrained(model)
    if architecture == "qwen2":  # the same layer names: only another number of layers tells
        other.model.layers = other.model.layers[:1]
        other.config.num_hidden_layers = 1
        other.config.layer_types = other.config.layer_types[:1]
        other.save_pretrained(model)
    refused(configure(model), "adapter", AdapterError, adapter)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference figures are not on this machine")
def test_scores_agree_with_the_published_script():
    differences = measure_differences(pairs=100, threads=1)  # `make bench` takes all 300
    assert len(differences) == 400
    assert max(difference.relative for difference in differences) < TOLERANCE
