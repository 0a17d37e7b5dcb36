import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflectune.agents.teacher.answers import find_turns, is_about_turns, is_runaway
from reflectune.agents.teacher.declines import is_about_declining, is_placeholder, is_refusal

# 25 characters: 12 of them are exactly 300.
UNIT = "The cat sat on the mat.\n\n"


@pytest.mark.parametrize(
    "text",
    [
        "x" * 300,
        "1000000" + "0" * 300,
        "Yes. " + "\n" * 400,
        '{"critique": "c",' + " \n" * 200,
        UNIT * 12,
        "Once upon a time. " + UNIT * 20,
        UNIT * 20 + "The cat sa",
        "It is 3." + "14" * 200,
        "".join(f"{number:0124d};" for number in (1, 2)) * 12,  # a unit of 250
        "日本" * 200,
    ],
)
def test_runaway_ends_in_a_loop(text: str) -> None:
    assert is_runaway(text)


SUDOKU = "+---+---+---+---+---+---+---+---+---+\n|   |   |   |   |   |   |   |   |   |\n" * 9
POEM = "\n\n".join(
    f"{first}\nRow, row, row your boat,\nGently down the stream,\nMerrily, merrily, merrily, merrily,\n"
    "Life is but a dream."
    for first in ("One.", "Two.", "Three.", "Four.")
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Red.",
        "# Title\n\n" + "=" * 200,
        "Ha" * 100 + "!",
        "No, no, no, no, no, no, no, no, no, no.",
        "x" * 299,
        "|" + "---|" * 40,
        UNIT * 11,
        UNIT * 20 + "Then it left.",
        SUDOKU,
        POEM,
        "\n".join("0 " * 8 for _ in range(8)),
        "\n".join(f"| {number} | {number * number} |" for number in range(100)),
        "\n".join(f"{number}. Take a step." for number in range(1, 40)),
        "".join(f"{number:03b} " for number in range(8)) * 9,
        "1/7 = 0." + "142857" * 20,
        "{" * 200 + "}" * 200,
        ("a" * 251 + "b") * 5,
    ],
)
def test_runaway_is_no_honest_text(text: str) -> None:
    assert not is_runaway(text)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    start=st.text(max_size=50),
    unit=st.text(min_size=1, max_size=250),
    cut=st.integers(min_value=0, max_value=249),
)
def test_runaway_is_any_unit_said_often_enough(start: str, unit: str, cut: int) -> None:
    assert is_runaway(start + unit * 300 + unit[:cut])
    assert not is_runaway((unit * 300)[:299])


@pytest.mark.parametrize("unit", ["{", "ab", "I'm sorry, ", "As an AI, ", "[your ", " ", "'", "x" * 251])
def test_texts_of_a_megabyte_take_no_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    began = time.process_time()
    for function in (is_placeholder, is_refusal, is_about_declining, is_runaway, find_turns, is_about_turns):
        for length in (60, 500, len(text)):
            function(text[:length])
    assert time.process_time() - began < 3  # with coverage; what is quadratic takes minutes


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("Blue.<|im_end|>\n<|im_start|>user\nWhy?", {"<|im_start|>user": 16}),
        ("<|start_header_id|>user<|end_header_id|>", {"<|start_header_id|>user": 0}),
        ("<|start|>user<|message|>", {"<|start|>user": 0}),
        ("<｜User｜>Why?", {"<｜user｜>": 0}),
        ("<|prompter|><|USER|>", {"<|prompter|>": 0, "<|user|>": 12}),
        ("<start_of_turn>user <|turn>user", {"<start_of_turn>user": 0, "<|turn>user": 20}),
        ("Blue. [INST] Why? [/INST] So. [INST]", {"[inst]": 6}),
        ("Blue.\nUser: Why?\nUser : Who?", {"user:": 6}),
        ("Blue.\n\n**Human**: Why?\n**HUMAN:** Who?", {"human:": 7}),
        ("Blue.\n### Instruction:\nWhy?\n###User: Who?", {"instruction:": 6, "user:": 28}),
    ],
)
def test_turns_begin_with_marks_and_headings(text: str, marks: dict[str, int]) -> None:
    assert find_turns(text) == marks


@pytest.mark.parametrize(
    "text",
    [
        "",
        "User: the first line",
        "Blue. User: within a line",
        "Blue.\nuser: root\n    User: admin",
        "Blue.\nUsername: Ann\nHumans: 2\nUser names: none",
        "Blue.\n# User:\n## Human:\n### User\n### Instructions:",
        "<|im_start|>assistant\nBlue.<|im_end|>",
        "<|user_id|> a <| user |> b |> user <user> [instruct] <|im_start|>users",
        "Blue.\nAssistant: Red.\nAnn: Why?",
    ],
)
def test_turns_are_no_other_words(text: str) -> None:
    assert find_turns(text) == {}


@pytest.mark.parametrize("text", ["Write a dialogue.", "What do USERS want?", "A role-play", "Human or not?"])
def test_what_speaks_of_users_or_dialogues_is_about_turns(text: str) -> None:
    assert is_about_turns(text)


@pytest.mark.parametrize("text", ["Why?\nUser: Who?", "Describe humanity.", "Write JavaScript.", ""])
def test_what_merely_has_turns_is_not_about_them(text: str) -> None:
    assert not is_about_turns(text)
