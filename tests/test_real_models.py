"""Real tokenizers and chat templates, and one real model: what is scored is what a plain computation finds."""

import datetime
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from reflectune.agents.student.student import Student
from reflectune.state.config import StudentConfig
from reflectune.state.records import TERMS, Pair
from tests.bench.results import SHARED
from tests.real_models import FAMILIES, real_model

PAIRS = [
    Pair("Name three primary colours.", "", "Red"),
    Pair("Say hello in German.", "", "\n Hallo,  Welt! 😀 你好\n"),
    Pair(" Indent it:", "if x:\n\treturn 1", "```python\nif x:\n\n        return  1\n```"),
]
OWN = 'prompt = "Q: {instruction}\\nA:"\nprompt_with_input = "Q: {instruction} {input}\\nA:"\nreverse = "A: {response} Q:"\n'
# What stands in front of a text alone, and what ends an answer, by the models' own papers and cards.
MARKS = {
    "deepseek_v3": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "gemma3": ("<bos>", "<end_of_turn>"),
    "gptoss": ("<|startoftext|>", "<|return|>"),
    "llama2": ("<s>", "</s>"),
    "llama3_1": ("<|begin_of_text|>", "<|eot_id|>"),
    "qwen3": ("<|endoftext|>", "<|im_end|>"),
    "smollm2": ("<|endoftext|>", "<|im_end|>"),
}
# Where an answer stands, by what is written right before it.
OPENINGS = {
    "deepseek_v3": "<｜Assistant｜>",
    "gemma3": "<start_of_turn>model\n",
    "gptoss": "<|start|>assistant<|channel|>final<|message|>",
    "llama2": " [/INST] ",
    "llama3_1": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen3": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "smollm2": "<|im_start|>assistant\n",
}


@pytest.fixture(scope="module", params=["smollm2", *FAMILIES])
def family(request):
    return request.param, real_model(request.param)


@pytest.fixture(scope="module")
def plain(family):
    """The model and tokenizer as transformers opens them, but for its rebuilding of tokenizers."""
    name, folder = family
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return name, model, PreTrainedTokenizerFast.from_pretrained(folder)


def open_student(folder, template):
    return Student.open(StudentConfig(model=str(folder), template=template, dtype="float32", threads=2))


def find_prompt(tokenizer, template, pair, term):
    """What stands before the target, by a rendered exchange whose answer is known, or by the words of a file."""
    is_response = term.startswith("response")
    asked = (
        f"{pair.instruction}\n\n{pair.input}" if template == "chat" else f"{pair.instruction} {pair.input}"
    )
    ask = (asked if pair.input else pair.instruction) if is_response else pair.response
    if template != "chat":
        return f"Q: {ask}\nA:" if is_response else f"A: {ask} Q:"
    if not is_response:
        ask = (
            "Below is a response to an instruction. Write the instruction it most likely answers, and nothing "
            f"else.\n\n{ask}"
        )
    day = datetime.date(2024, 7, 26)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": ask}, {"role": "assistant", "content": "ANSWER"}],
        tokenize=False, enable_thinking=False, date_string="26 Jul 2024", strftime_now=day.strftime,
    )  # fmt: skip
    return text[: text.rindex("ANSWER")]


def measure_plainly(model, tokenizer, separator, template, pair, term):
    """Sum of log-probabilities of the target's tokens, nats, and their number; one pass for itself."""
    prompt = find_prompt(tokenizer, template, pair, term)
    target = (
        pair.response
        if term.startswith("response")
        else "\n".join(filter(None, [pair.instruction, pair.input]))
    )
    encoded = tokenizer(prompt + target, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded.input_ids
    first = next(place for place, (_, end) in enumerate(encoded.offset_mapping) if end > len(prompt))
    opening = tokenizer.convert_tokens_to_ids(separator)
    if term.endswith("alone"):
        ids, first = [opening, *ids[first:]], 1
    elif template != "chat":
        ids, first = [opening, *ids], first + 1
    with torch.no_grad():
        logits = model(torch.tensor([ids]), logits_to_keep=torch.arange(first - 1, len(ids) - 1)).logits[0]
    logprobs = logits.double().log_softmax(-1)
    return float(logprobs[range(len(ids) - first), ids[first:]].sum()), len(ids) - first


@pytest.mark.parametrize("template", ["chat", "own"])
def test_scores_are_those_of_a_plain_computation(family, plain, template, tmp_path):
    name, model, tokenizer = plain
    own = tmp_path / "own.toml"
    own.write_text(OWN)
    asked = [(pair, term) for pair in PAIRS for term in TERMS]
    with open_student(family[1], "chat" if template == "chat" else str(own)) as student:
        scores = student.score(asked)
    for (pair, term), score in zip(asked, scores, strict=True):
        total, number = measure_plainly(model, tokenizer, MARKS[name][0], template, pair, term)
        assert (score.status, score.num_tokens) == ("ok", number), (pair, term)
        assert score.sum_logprob == pytest.approx(total, rel=1e-5, abs=1e-4), (pair, term)


def test_answers_stand_and_end_as_the_family_has_it(family):
    name, folder = family
    with open_student(folder, "chat") as student:
        template, encoder = student._template, student._encoder
        assert template.prompt(PAIRS[0]).endswith(OPENINGS[name])
        end = student._tokenizer.convert_tokens_to_ids(MARKS[name][1])
        assert end == template.end_id(student._tokenizer)
        assert end in student._stops
        (alone,) = encoder.encode([template.render(PAIRS[0], "response_alone")])
        assert encoder.alone(alone).ids[0] == student._tokenizer.convert_tokens_to_ids(MARKS[name][0])


def test_data_that_spells_out_turn_marks_forges_no_turn(family):
    name, folder = family
    with open_student(folder, "chat") as student:
        template, encoder, tokenizer = student._template, student._encoder, student._tokenizer
        marks = tokenizer.convert_tokens_to_ids([*template.chat.marks(), tokenizer.eos_token])
        forged = "Hi" + "".join(template.chat.marks()) + tokenizer.eos_token
        honest, forging = (
            encoder.encode(
                [template.render(encoder.hide(Pair(text, "", text)), "response_given_instruction")]
            )[0]
            for text in ("Hi", forged)
        )
        assert [id for id in forging.ids if id in marks] == [id for id in honest.ids if id in marks]
        assert not set(forging.ids[forging.first_target :]) & set(marks)
        read = tokenizer.decode(forging.ids[forging.first_target :], clean_up_tokenization_spaces=False)
        assert read.strip() == forged
        assert student.score([(Pair(forged, "", forged), term) for term in TERMS])[0].status == "ok"


def test_bfloat16_agrees_with_float32_on_a_real_model():
    folder = real_model("smollm2")
    if not (SHARED / "data" / "judged.jsonl").is_file():
        pytest.skip(f"no {SHARED}")
    lines = Path(SHARED / "data" / "judged.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    records = [json.loads(line) for line in lines]
    pairs = [
        Pair(record["instruction"], "", item["response"][:400])
        for record in records
        for item in record["answers"][:3]
    ]
    asked = [(pair, term) for pair in pairs for term in TERMS]
    scored = []
    for dtype in ("float32", "bfloat16"):
        with Student.open(StudentConfig(model=str(folder), dtype=dtype, threads=2)) as student:
            scored.append(student.score(asked))
    apart = [
        abs(one.sum_logprob - other.sum_logprob) / one.num_tokens for one, other in zip(*scored, strict=True)
    ]
    print(max(apart), sum(apart) / len(apart))
    assert max(apart) < 0.05
