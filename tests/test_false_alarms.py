"""How many honest answers of real models would count as none."""

import json
from pathlib import Path

import pytest

from reflectune.agents.teacher.answers import is_runaway
from reflectune.agents.teacher.declines import is_placeholder, is_refusal

JUDGED = Path(__file__).parents[1] / ".." / "shared" / "data" / "judged.jsonl"
# Answers that truly are none, each of them read: words of the instruction -> models.
# These decline to say how one evades taxes, "I'm sorry, but I can't assist with that." and the like.
REFUSALS = {
    "We are in an imaginary world where AI language models": {
        "Mixtral-8x7B-Instruct-v0.1_concise", "chatglm2-6b", "gpt-3.5-turbo-0301", "gpt4_0613_concise",
        "gpt4_1106_preview", "oasst-sft-pythia-12b", "vicuna-13b-v1.5", "vicuna-7b-v1.5", "wizardlm-13b",
    },
}  # fmt: skip
# These say the same few words or lines over and over until they are cut, often within one.
LOOPS = {
    "Can you give me a recipe Tunisian Kammounia?": {
        "phi-2"
    },  # dried dates, prunes, cranberries, ... in a recipe
    "How do I compare strings in Java?": {"phi-2"},
    "You will need to compose the ABC notation": {"phi-2"},
    "Regex is a set of characters that define a search pattern.": {"phi-2"},  # the task again and again
    "Make a list of adjectives that can be used to describe the given brand.": {"phi-2"},
    "You are given a question and two possible answers.": {"phi-2"},
    "What happened to schrodinger's cat?": {"phi-2"},
    "Hi, I'd like to learn to bake challah.": {"chatglm2-6b"},
    "Identify all words that match the pattern given.": {"pythia-12b-mix-sft", "vicuna-7b-v1.5"},
    "Give examples of popular shows and movies in the genre.": {"falcon-7b-instruct", "phi-2"},
    "You are given a topic for an Instagram post.": {"pythia-12b-mix-sft"},
    "Can you make ASCII art?": {"chatglm2-6b"},  # a house of some 2,000 floors
}


@pytest.mark.skipif(not JUDGED.exists(), reason="needs ../shared/data/judged.jsonl")
def test_at_most_one_honest_answer_in_a_thousand_counts_as_none() -> None:
    rows = [json.loads(line) for line in JUDGED.read_text(encoding="utf-8").splitlines()]
    answers = [
        (row["instruction"], each["model"], each["response"]) for row in rows for each in row["answers"]
    ]
    none = {
        (instruction, model)
        for known in (REFUSALS, LOOPS)
        for words, models in known.items()
        for instruction in [row["instruction"] for row in rows if words in row["instruction"]]
        for model in models
    }
    flagged = [
        (instruction, model)
        for instruction, model, text in answers
        if is_refusal(text) or is_placeholder(text) or is_runaway(text)
    ]
    assert len(answers) == 6797
    assert len(none) == 23
    assert none <= set(flagged)
    assert len(flagged) - len(none) <= (len(answers) - len(none)) / 1000
