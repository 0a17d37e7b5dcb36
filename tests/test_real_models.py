"""Real tokenizers and chat templates, and a real model: what is scored is what a plain computation finds."""

import datetime
import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from reflectune.agents.student.student import Student, StudentBase
from reflectune.agents.student.templates import open_template
from reflectune.agents.tokenizers import open_tokenizer
from reflectune.state.config import StudentConfig
from reflectune.state.records import TERMS, Pair
from tests.real_models import FAMILIES, real_model

# The largest tokenizers take seconds to open.
pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

PAIRS = [
    Pair("Name three primary colours.", "", "Red"),
    Pair("Say hello in German.", "", "\n Hallo,  Welt! 😀 你好\n"),
    Pair(" Indent it:", "if x:\n\treturn 1", "```python\nif x:\n\n        return  1\n```"),
]
OWN = r"""
prompt = "Q: {instruction}\nA:"
prompt_with_input = "Q: {instruction} {input}\nA:"
reverse = "A: {response} Q:"
"""
# Prompt, prompt with an input, and the prompt that asks for the instruction.
WORDS = {
    "own": ("Q: {}\nA:", "Q: {} {}\nA:", "A: {} Q:"),
    "chat": (
        "{}",
        "{}\n\n{}",
        "Below is a response to an instruction. "
        "Write the instruction it most likely answers, and nothing else.\n\n{}",
    ),
}
# What stands in front of a text alone; the end of an answer; the end of what stands before it.
MARKS = {
    "deepseek_v3": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜Assistant｜>"),
    "gemma3": ("<bos>", "<end_of_turn>", "<start_of_turn>model\n"),
    "gptoss": ("<|startoftext|>", "<|return|>", "<|start|>assistant<|channel|>final<|message|>"),
    "llama2": ("<s>", "</s>", " [/INST] "),
    "llama3_1": ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "qwen3": ("<|endoftext|>", "<|im_end|>", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    "smollm2": ("<|endoftext|>", "<|im_end|>", "<|im_start|>assistant\n"),
}


@pytest.fixture(scope="module", params=["smollm2", *FAMILIES])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def student(name):
    with Student.open(configure(real_model(name))) as opened:
        yield opened


def configure(folder, **values):
    return StudentConfig(**{"model": str(folder), "dtype": "float32", "threads": 1} | values)


def with_template(student, template):
    config = configure("student", template=str(template))
    template = open_template(config, student._tokenizer)
    return Student(StudentBase(config, (student._model, student._tokenizer, template)))


def find_prompt(tokenizer, template, pair, term):
    """What stands before the target: the words of a template, or a rendered exchange up to its answer."""
    prompt, with_input, reverse = WORDS[template]
    if term.startswith("instruction"):
        words = reverse.format(pair.response)
    else:
        words = (with_input if pair.input else prompt).format(pair.instruction, pair.input)
    if template != "chat":
        return words
    day = datetime.date(2024, 7, 26)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": words}, {"role": "assistant", "content": "ANSWER"}],
        tokenize=False, enable_thinking=False, date_string="26 Jul 2024", strftime_now=day.strftime,
    )  # fmt: skip
    return text[: text.rindex("ANSWER")]


def measure_plainly(model, tokenizer, file, separator, template, pair, term):
    """Sum of the log-probabilities of the target's tokens, nats, and their number; a pass of its own."""
    prompt = find_prompt(tokenizer, template, pair, term)
    x = pair.instruction + "\n" * bool(pair.input) + pair.input
    encoding = file.encode(
        prompt + (pair.response if term.startswith("response") else x), add_special_tokens=False
    )
    ids = encoding.ids
    first = next(place for place, (_, end) in enumerate(encoding.offsets) if end > len(prompt))
    if term.endswith("alone"):
        ids, first = [file.token_to_id(separator), *ids[first:]], 1
    elif template != "chat":
        ids, first = [file.token_to_id(separator), *ids], first + 1
    with torch.no_grad():
        logits = model(torch.tensor([ids]), logits_to_keep=torch.arange(first - 1, len(ids) - 1)).logits[0]
    return float(logits.double().log_softmax(-1)[range(len(ids) - first), ids[first:]].sum()), len(
        ids
    ) - first


def test_scores_are_those_of_a_plain_computation(name, student, tmp_path):
    folder = real_model(name)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    (tmp_path / "own.toml").write_text(OWN)
    asked = [(pair, term) for pair in PAIRS for term in TERMS]
    for template, scoring in {"chat": student, "own": with_template(student, tmp_path / "own.toml")}.items():
        scores = scoring.score(asked)
        for (pair, term), score in zip(asked, scores, strict=True):
            place = (template, pair, term)
            total, number = measure_plainly(plain, student._tokenizer, file, MARKS[name][0], *place)
            assert (score.status, score.num_tokens) == ("ok", number), place
            assert score.sum_logprob == pytest.approx(total, rel=1e-5, abs=1e-4), place


def test_answers_stand_and_end_as_the_family_has_it(name, student):
    template, tokenizer = student._template, student._tokenizer
    separator, end, opening = MARKS[name]
    assert template.prompt(PAIRS[0]).endswith(opening)
    assert tokenizer.convert_ids_to_tokens(template.end_id(tokenizer)) == end
    assert template.end_id(tokenizer) in student._stops
    (encoded,) = student._pairs.encoder.encode([template.render(PAIRS[0], "response_alone")])
    assert student._pairs.encoder.alone(encoded).ids[0] == tokenizer.convert_tokens_to_ids(separator)
    (asked,) = student._pairs.encoder.encode_prompts([template.opening(PAIRS[0])])
    assert encoded.ids[: len(asked)] == asked  # it writes where it was trained


def test_data_that_spells_out_turn_marks_forges_no_turn(name, student):
    template, encoder, tokenizer = student._template, student._pairs.encoder, student._tokenizer
    names = [*template.chat.marks(), tokenizer.eos_token]
    marks, text = set(tokenizer.convert_tokens_to_ids(names)), "Hi" + "".join(names)
    pairs = Pair("Hi", "", "Hi"), Pair(text, "", text)
    honest, forging = encoder.encode([template.render(encoder.hide(pair), TERMS[0]) for pair in pairs])
    assert [id for id in forging.ids if id in marks] == [id for id in honest.ids if id in marks]
    response = forging.ids[forging.first_target :]
    assert not set(response) & marks
    assert tokenizer.decode(response, clean_up_tokenization_spaces=False).strip() == text
    assert student.score([(pairs[1], TERMS[0])])[0].status == "ok"


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_tokenizer_that_transformers_would_rebuild_reads_as_its_file_says(tmp_path, kind):
    shutil.copytree(real_model("deepseek_v3"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    text = "Say hello\n\nin  German. 😀"
    lossy = AutoTokenizer.from_pretrained(tmp_path)
    assert lossy.decode(lossy(text, add_special_tokens=False).input_ids) != text
    tokenizer = open_tokenizer(configure(tmp_path))
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


@pytest.mark.parametrize("name", ["smollm2"], indirect=True)
def test_bfloat16_agrees_with_float32_on_a_real_model(student):
    asked = [(PAIRS[1], term) for term in TERMS]
    with Student.open(configure(real_model("smollm2"), dtype="bfloat16")) as opened:
        half = opened.score(asked)
    for one, other in zip(student.score(asked), half, strict=True):
        assert abs(one.sum_logprob - other.sum_logprob) < 0.15 * one.num_tokens
