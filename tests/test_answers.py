import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflectune.agents.teacher.answers import (
    find_turns,
    is_about_turns,
    is_placeholder,
    is_refusal,
    is_runaway,
)

STAND_INS = """
... | … | [...] | <...> |  ...... | "..." | TODO | [TBD] | N/A | n/a | string | `string` | [new instruction]
[response to the new instruction] | **[Improved response]** | <your answer here> | <Your answer goes here>
{new_response} | <new-instruction> | [Insert your essay here] | [your text here] | Your answer here
Insert the new instruction here
"""
# "Todo" and "todo" are words, and NA is sodium; XXX is thirty.
NO_STAND_INS = """
The middle name is N/A in the record. | Write 'N/A' where your answer is not known. | TODO: buy milk. | Todo
todo | NA | String | A string. | None | your answer | Your answer is wrong. | [End] | [MASK] | [positive]
[1, 2, 3] | [a-z]+ | <div> | <input> | <string> | {x} | {} | [Verse 1] | (Put the kettle here.) | Wait...
And then... nothing. | ____ | XXX | Enter your name here | Here | The answer is here | Answer: 4 | response
<p>Your answer here</p> | [new instruction] [and more of it]
[Write a response that a customer here would like to read, in two polite sentences or three.]
"""


def split(texts: str) -> list[str]:
    return [text for line in texts.strip().splitlines() for text in line.split(" | ")]


@pytest.mark.parametrize("text", [*split(STAND_INS), " ...... \n"])
def test_placeholder_is_a_whole_text_that_stands_in(text: str) -> None:
    assert is_placeholder(text)


@pytest.mark.parametrize("text", [*split(NO_STAND_INS), "", "   "])
def test_placeholder_is_no_honest_text(text: str) -> None:
    assert not is_placeholder(text)


REFUSALS = """
I'm sorry, but I can't assist with that. | I cannot help with that. | I cannot help with creating malware.
I\u2019m sorry, but I can\u2019t assist with that request. | Sorry, I can't help you with that
I'm sorry. I am unable to assist with this task. | I apologize, but I cannot fulfill this request.
I apologise for the inconvenience, but I can't comply with your request. | I'm afraid I can't rewrite this.
My apologies, but I cannot provide instructions on how to pick locks. | I have to decline this request.
Unfortunately, I'm not able to generate explicit content. | "I will not engage with this topic."
I can't provide information or guidance on illegal or harmful activities.
As an AI language model, I cannot assist with that. It could do harm. Please ask something else.
As an AI language model, I am unable to browse the web. | I must respectfully decline to write this content.
I'm sorry, but as an AI assistant, I can't do that.
**I can't help with this kind of content.** Please ask me something else.
I can't help with that request. Locks keep people safe.
"""
LONG_REFUSALS = [
    "As an AI language model, I cannot fulfil\nthis request.",
    "I'm sorry, but I can't assist with that. Malware can do great harm. If you want to learn how to "
    "protect a network, I'd be happy to help. Please let me know!",
    "I cannot provide guidance on that. It is illegal in most countries. Instead, I can explain the law. "
    "Its history is long.",
]
NO_REFUSALS = """
I'm sorry, but I can't make it to your party. | I'm sorry for your loss. | I'm afraid of spiders.
I am sorry to hear that. Have you tried turning it off and on? | I can't help falling in love with you.
Sorry, I can't come on Saturday; I will help with the dishes on Sunday. | I must decline your kind invitation.
I can't help you move on Saturday, my back hurts. | I'm unable to attend, but I can send my notes.
I'm sorry, but I can't help with that couch; it is too heavy. | I can't help with this Saturday's move.
Unfortunately, I cannot attend the meeting. | I am unable to accept your offer at this time.
I cannot recommend this film enough. | I cannot write today: my hand hurts.
I can't provide for five children on one income. | I won't answer the phone after ten.
I will not go gentle into that good night. | As an AI researcher, I cannot overstate how much data matters.
As an AI language model, I have no favourite colour. Many people like blue.
As an AI language model, I cannot taste, but people describe it as sweet.
As an AI language model, I cannot provide real-time information. Please ask the border authorities.
I cannot provide information. Ask the press office. | Dear Sir, I cannot help with that. Yours, Ann
The bot said: I'm sorry, but I can't assist with that. | Translate: I'm sorry, but I can't assist with that.
Apologies are hard. I cannot help thinking so.
I cannot give advice on doses, but I can help with that. Take 500 mg.
I'm sorry, but I can't help with this request. The lamp was sold in March. Returns end in April.
I can't provide advice on doses. Most adults take 500 mg. A day's limit is 4 g. Ask a pharmacist.
"""
TOO_LONG = "I'm sorry, but I can't assist with that. " + "Here is what you can do instead of it. " * 20


@pytest.mark.parametrize("text", [*split(REFUSALS), *LONG_REFUSALS])
def test_refusal_is_a_model_that_declines(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", [*split(NO_REFUSALS), TOO_LONG, ""])
def test_refusal_is_no_honest_text(text: str) -> None:
    assert not is_refusal(text)


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
def test_texts_of_many_megabytes_take_no_time(unit: str) -> None:
    text = unit * (4_000_000 // len(unit))
    began = time.process_time()
    for function in (is_placeholder, is_refusal, is_runaway, find_turns, is_about_turns):
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
