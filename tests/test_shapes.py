"""Every public shape of instruction data: what its pair and context are, and where each field goes."""

import json
from pathlib import Path
from typing import Any

import pytest

from reflectune.state.config import DataConfig
from reflectune.state.data.datasets import Dataset, read_dataset, read_rows
from reflectune.state.data.rows import RowReader
from reflectune.state.data.shapes import SHAPES
from reflectune.state.data.unused import place_fields
from reflectune.state.errors import DatasetError
from reflectune.state.records import Pair, Turn

LONG = "word " * 60
Q, A = "Why is the sky blue?", "Because of Rayleigh scattering."
SAID = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
WORSE = [{"role": "user", "content": Q}, {"role": "assistant", "content": "No idea."}]
GPT = [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]
BRIEF = Turn("system", "Be brief.")
EARLIER = (Turn("user", "Hi."), Turn("assistant", "Hello."))
PAIR = Pair(Q, "", A)
AFTER_SYSTEM, AFTER_TALK = Pair(Q, "", A, (BRIEF,)), Pair(Q, "", A, EARLIER)

# shape, a row as published, its pair, and where its fields go: those that are not named are its pair.
PUBLIC: dict[str, tuple[str, dict[str, Any], Pair, dict[str, str]]] = {
    "Alpaca, with the prompt made of it": (
        "alpaca",
        {"instruction": "Add.", "input": "1 2", "output": "3", "text": f"Below is {LONG}: Add.\n\n1 2\n\n3"},
        Pair("Add.", "1 2", "3"),
        {"text": "meta"},
    ),
    "Alpaca with a response": ("alpaca", {"instruction": Q, "response": A}, PAIR, {}),
    "WizardLM": (
        "sharegpt", {"idx": "7", "conversations": GPT}, PAIR, {"idx": "meta"},
    ),
    "WizardLM, first release": ("alpaca", {"instruction": Q, "output": A}, PAIR, {}),
    "Dolly": (
        "dolly",
        {"instruction": Q, "context": "A text on light.", "response": A, "category": "closed_qa"},
        Pair(Q, "A text on light.", A),
        {"category": "meta"},
    ),
    "LLaMA-Factory alpaca": (
        "alpaca",
        {"instruction": Q, "input": "", "output": A, "system": "Be brief.", "history": [["Hi.", "Hello."]]},
        Pair(Q, "", A, (BRIEF, *EARLIER)),
        {"system": "context", "history": "context"},
    ),
    "LLaMA-Factory sharegpt": (
        "sharegpt",
        {"conversations": GPT, "system": "Be brief.", "tools": "[]"},
        AFTER_SYSTEM,
        {"system": "context", "tools": "meta"},
    ),
    "OpenAI fine-tuning": (
        "messages",
        {"messages": [SAID[0], SAID[1] | {"weight": 0}]},
        PAIR,
        {"messages[].weight": "unused"},
    ),
    "SlimOrca": (
        "sharegpt",
        {
            "conversations": [
                {"from": "system", "value": "Be brief.", "weight": None},
                {"from": "human", "value": Q, "weight": 0},
                {"from": "gpt", "value": A, "weight": 1},
            ]
        },
        AFTER_SYSTEM,
        {},
    ),
    "OpenOrca": (
        "question",
        {"id": "flan.1", "system_prompt": "Be brief.", "question": Q, "response": A},
        AFTER_SYSTEM,
        {"id": "meta", "system_prompt": "context"},
    ),
    "NuminaMath": (
        "question", {"problem": Q, "solution": A, "answer": "x"}, PAIR, {"answer": "meta"},
    ),
    "solution beside": (
        "prompt",
        {"prompt": Q, "response": A, "solution": "x", "explanation": "y"},
        PAIR,
        {"solution": "unused", "explanation": "unused"},
    ),
    "GSM8K": ("question", {"question": Q, "answer": A}, PAIR, {}),
    "MetaMath": (
        "question",
        {"query": Q, "response": A, "type": "GSM_Rephrased", "original_question": LONG},
        PAIR,
        {"type": "meta", "original_question": "unused"},
    ),
    "prompt and completion": ("prompt", {"prompt": Q, "completion": A}, PAIR, {}),
    "prompt and completion, conversational": (
        "prompt", {"prompt": SAID[:1], "completion": SAID[1:]}, PAIR, {},
    ),
    "prompt and response": ("prompt", {"prompt": Q, "response": A, "seed": 3}, PAIR, {"seed": "meta"}),
    "KTO": ("prompt", {"prompt": Q, "completion": A, "label": False}, PAIR, {"label": "unused"}),
    "distilabel": (
        "alpaca",
        {"instruction": Q, "generation": A, "model_name": "m", "distilabel_metadata": {"raw": LONG}},
        PAIR,
        {"model_name": "meta", "distilabel_metadata": "unused"},
    ),
    "distilabel, one of a list": (
        "generations",
        {"instruction": Q, "generations": [A], "generation_models": ["m"]},
        PAIR,
        {"generation_models": "meta"},
    ),
    "distilabel, the best rated": (
        "generations",
        {
            "instruction": Q, "generations": [LONG, A, None, "Also."], "generation_models": list("abcd"),
            "ratings": [2, 4.5, 5, 4.5], "raw_generation_responses": [LONG] * 4,
        },
        PAIR,
        {"generation_models": "meta", "ratings": "meta", "raw_generation_responses": "unused"},
    ),
    "Axolotl's segments": (
        "segments",
        {"segments": [{"label": False, "text": Q}, {"label": True, "text": A}], "id": 1},
        PAIR,
        {"id": "meta"},
    ),
    "No Robots": (
        "messages",
        {"prompt": Q, "prompt_id": "f0", "messages": SAID, "category": "Open QA"},
        PAIR,
        {"prompt": "meta", "prompt_id": "meta", "category": "meta"},
    ),
    "UltraChat": ("ultrachat", {"id": "0", "data": [Q, A]}, PAIR, {"id": "meta"}),
    "UltraChat 200k": (
        "messages",
        {"prompt": Q, "prompt_id": "f0", "messages": SAID},
        PAIR,
        {"prompt": "meta", "prompt_id": "meta"},
    ),
    "UltraFeedback": (
        "preference",
        {
            "prompt": Q, "prompt_id": "f0", "chosen": SAID, "rejected": WORSE, "messages": SAID,
            "score_chosen": 8.5, "score_rejected": 6.0,
        },
        PAIR,
        dict.fromkeys(("prompt_id", "rejected", "messages", "score_chosen", "score_rejected"), "meta"),
    ),
    "preference as texts": (
        "preference", {"prompt": Q, "chosen": A, "rejected": LONG}, PAIR, {"rejected": "meta"},
    ),
    "preference, conversational prompt": (
        "preference",
        {"prompt": SAID[:1], "chosen": SAID[1:], "rejected": WORSE[1:]},
        PAIR,
        {"rejected": "meta"},
    ),
    "HH as lists": ("preference", {"chosen": SAID, "rejected": WORSE}, PAIR, {"rejected": "meta"}),
    "HH": (
        "preference",
        {
            "chosen": f"\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: {Q}\n\nAssistant: {A}",
            "rejected": f"\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: {Q}\n\nAssistant: {LONG}",
        },
        AFTER_TALK,
        {"rejected": "meta"},
    ),
    "Capybara": (
        "sharegpt",
        {"source": "s", "conversation": [{"input": "Hi.", "output": "Hello."}, {"input": Q, "output": A}]},
        AFTER_TALK,
        {"source": "meta"},
    ),
    "LIMA": (
        "sharegpt",
        {"conversations": ["Hi.", "Hello.", Q, A], "source": "s"},
        AFTER_TALK,
        {"source": "meta"},
    ),
    "Magpie": (
        "sharegpt",
        {"uuid": "u", "instruction": Q, "response": A, "conversations": GPT, "difficulty": "easy"},
        PAIR,
        dict.fromkeys(("uuid", "instruction", "response", "difficulty"), "meta"),
    ),
    "reasoning traces": (
        "question",
        {"question": Q, "answer": A, "reasoning": "Think of light.", "images": [], "n_tokens": 12},
        PAIR,
        {"reasoning": "unused", "images": "meta", "n_tokens": "meta"},
    ),
    "thinking in turns": (
        "messages",
        {"messages": [SAID[0], SAID[1] | {"reasoning_content": "Think of light."}]},
        PAIR,
        {"messages[].reasoning_content": "unused"},
    ),
    "SQuAD-like": (
        "question",
        {"question": Q, "context": "On light.", "answer": A},
        PAIR,
        {"context": "unused"},
    ),
}  # fmt: skip


def open_rows(tmp_path: Path, *rows: object, **settings: Any) -> Dataset:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    return read_dataset(DataConfig(path=str(path), **settings))


@pytest.mark.parametrize(("shape", "row", "pair", "elsewhere"), PUBLIC.values(), ids=PUBLIC)
def test_public_shape_is_found_and_every_field_of_it_is_accounted_for(
    tmp_path: Path, shape: str, row: dict[str, Any], pair: Pair, elsewhere: dict[str, str]
) -> None:
    dataset = open_rows(tmp_path, row)
    (record,) = dataset
    assert record.pair == pair
    assert dataset.account.shapes == {shape: 1}
    places = {name: next(iter(counts)) for name, counts in dataset.account.fields.items()}
    assert places == dict.fromkeys(row, "pair") | elsewhere
    unused = {name: 1 for name, place in elsewhere.items() if place == "unused"}
    assert dataset.account.unused == unused
    # What is in no pair is in meta, as it is; turns keep what is their own.
    beside = {name for name, place in places.items() if place in ("meta", "unused") and name in row}
    beside |= row.keys() & {"generations"}  # of which one is in the pair
    assert record.meta == {name: row[name] for name in beside}
    # A format that is set finds the same, and data.ignore silences what the warning names.
    if shape in SHAPES:
        assert [again.pair for again in open_rows(tmp_path, row, format=shape)] == [pair]
    silenced = open_rows(tmp_path, row, ignore=list(unused))
    assert silenced.account.unused == {}
    assert {silenced.account.fields[name].total() for name in unused} <= {1}
    assert all(silenced.account.fields[name]["ignored"] for name in unused)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"instruction": Q, "generations": [A, "b"]}, "2 generations, and no ratings that say which"),
        (
            {"instruction": Q, "generations": [A, "b"], "ratings": [None, None]},
            "2 generations, and no ratings",
        ),
        ({"instruction": Q, "generations": [A, "b"], "ratings": [1]}, "2 generations, and no ratings"),
        ({"instruction": Q, "generations": []}, "0 generations, and no ratings"),
        (
            {"segments": [{"label": True, "text": Q}, {"label": True, "text": A}]},
            "segments are raw text, not a",
        ),
        (
            {"segments": [{"label": False, "text": f"<s>{Q}"}, {"label": True, "text": f"{A}</s>"}]},
            "segments are raw text, not a question (label false) and its answer (label true)",
        ),
    ],
)
def test_lists_that_do_not_say_what_the_pair_is_are_refused_with_a_way_out(
    tmp_path: Path, row: dict[str, Any], why: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        open_rows(tmp_path, {"instruction": Q, "output": A}, row)
    assert f"(index 1: {why}" in str(caught.value)
    assert len(open_rows(tmp_path, {"instruction": Q, "output": A}, row, odd={"invalid": "skip"})) == 1


def test_fields_of_refused_rows_are_told_too(tmp_path: Path) -> None:
    dataset = open_rows(
        tmp_path,
        {"messages": SAID},
        {"messages": SAID, "tools": [{"name": "add"}]},
        {"title": "x"},
        odd={"tools": "skip", "invalid": "skip"},
    )
    fields = {name: dict(places) for name, places in dataset.account.fields.items()}
    assert fields == {"messages": {"pair": 1, "refused": 1}, "tools": {"refused": 1}, "title": {"refused": 1}}
    assert (dataset.account.rows, dataset.account.kept) == (3, 1)
    ignored = open_rows(tmp_path, {"messages": SAID, "tools": [{"name": "add"}]}, ignore=["tools"])
    assert dict(ignored.account.fields["tools"]) == {"ignored": 1}


COLUMNS: list[tuple[dict[str, str], dict[str, Any], Pair]] = [
    ({"instruction": "ask", "response": "reply"}, {"ask": Q, "reply": A}, PAIR),
    ({"instruction": "ask", "response": "reply", "system": "persona"},
     {"ask": Q, "reply": A, "persona": "Be brief."}, AFTER_SYSTEM),
    ({"instruction": "ask", "input": "passage", "response": "reply"}, {"ask": Q, "passage": "p", "reply": A},
     Pair(Q, "p", A)),
    ({"response": "best"}, {"instruction": Q, "output": "no", "best": A}, PAIR),
    ({"input": "context"}, {"question": Q, "answer": A, "context": "p"}, Pair(Q, "p", A)),
    ({"messages": "dialog"}, {"dialog": GPT, "messages": "other"}, PAIR),
    ({"messages": "dialog", "system": "persona"}, {"dialog": SAID, "persona": "Be brief."}, AFTER_SYSTEM),
    ({"history": "before"}, {"instruction": Q, "output": A, "before": [["Hi.", "Hello."]]}, AFTER_TALK),
    ({"instruction": "ask", "response": "reply"}, {"ask": Q, "reply": A, "messages": [1]}, PAIR),
    # A field that is claimed is nothing else.
    ({"instruction": "input", "response": "output"}, {"input": Q, "output": A}, PAIR),
    ({"instruction": "system"}, {"system": Q, "output": A}, PAIR),
    ({"input": "prompt"}, {"prompt": "p", "completion": "no", "instruction": Q, "output": A},
     Pair(Q, "p", A)),
    ({"system": "context"}, {"instruction": Q, "context": "Be brief.", "response": A}, AFTER_SYSTEM),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "row", "pair"), COLUMNS, ids=range(len(COLUMNS)))
def test_columns_put_fields_of_other_names_in_their_place(
    tmp_path: Path, columns: dict[str, str], row: dict[str, Any], pair: Pair
) -> None:
    (record,) = open_rows(tmp_path, row, columns=columns)
    assert record.pair == pair


TALK = [*GPT[:1], {"from": "gpt", "value": "Why?"}, {"from": "human", "value": "Tell me."}]
AFTER_WHY = Pair("Tell me.", "", A, (Turn("user", Q), Turn("assistant", "Why?")))
ANSWERED: list[tuple[dict[str, Any], dict[str, Any], Pair, str]] = [
    ({"conversations": TALK, "chosen": GPT[1], "rejected": GPT[1]}, {}, AFTER_WHY, "chosen"),
    ({"messages": TALK, "chosen": A, "rejected": LONG}, {}, AFTER_WHY, "chosen"),
    ({"messages": TALK, "chosen": GPT[1:], "rejected": GPT[1:]}, {}, AFTER_WHY, "chosen"),
    ({"messages": TALK, "response": A}, {}, AFTER_WHY, "response"),
    ({"messages": SAID[:1], "output": A}, {}, PAIR, "output"),
    ({"talk": TALK, "reply": A}, {"columns": {"messages": "talk", "response": "reply"}}, AFTER_WHY, "reply"),
    ({"talk": TALK, "answer": A}, {"columns": {"messages": "talk"}}, AFTER_WHY, "answer"),
]


@pytest.mark.parametrize(("row", "settings", "pair", "field"), ANSWERED, ids=range(len(ANSWERED)))
def test_turns_that_end_with_a_question_take_the_answer_beside_them(
    tmp_path: Path, row: dict[str, Any], settings: dict[str, Any], pair: Pair, field: str
) -> None:
    dataset = open_rows(tmp_path, row, **settings)
    assert [record.pair for record in dataset] == [pair]
    assert dataset.account.fields[field] == {"pair": 1}
    assert dataset.account.unused == {}


def test_turns_that_end_with_an_answer_take_no_other(tmp_path: Path) -> None:
    for more in ({"response": "other"}, {"chosen": "other"}):
        assert [record.pair for record in open_rows(tmp_path, {"messages": SAID} | more)] == [PAIR]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("short", "meta"), (LONG, "unused"), ([LONG], "unused"), ({"deep": {"er": LONG}}, "unused"),
        (7, "meta"), (None, "meta"), (Q, "meta"),
    ],
)  # fmt: skip
def test_long_texts_of_any_name_are_told(value: object, place: str) -> None:
    row = {"instruction": Q, "output": A, "note": value}
    reading = RowReader(DataConfig(path="x")).read("index 0", row)
    assert reading.given is not None
    assert dict(place_fields(row, reading.given, []))["note"] == place


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("extraContext", "a", "unused"), ("context_length", 7, "meta"), ("contextual", "a", "meta"),
        ("weight", 1, "meta"), ("weight", 0.5, "unused"), ("label", "good", "unused"),
        ("image", "x.png", "unused"), ("system", "  ", "meta"), ("tool_names", "a", "meta"),
        ("Thinking", "a", "unused"), ("history", [], "meta"),
    ],
)  # fmt: skip
def test_names_tell_which_fields_may_change_what_a_pair_means(name: str, value: object, place: str) -> None:
    row = {"instruction": Q, "output": A, name: value}
    reading = RowReader(DataConfig(path="x")).read("index 0", row)
    assert reading.given is not None
    assert dict(place_fields(row, reading.given, []))[name] == place


@pytest.mark.parametrize("turns", [[SAID[0], SAID[1] | {"weight": 0, "reasoning": "a"}]])
def test_turns_as_json_text_are_looked_at_too(tmp_path: Path, turns: Any) -> None:
    for given in (turns, json.dumps(turns)):
        unused = open_rows(tmp_path, {"messages": given}).account.unused
        assert unused == {"messages[].weight": 1, "messages[].reasoning": 1}


def test_a_column_that_no_row_has_is_refused(tmp_path: Path) -> None:
    rows = [{"ask": Q, "reply": A}, {"ask": Q, "reply": A, "persona": "Be brief."}]
    columns = {"instruction": "ask", "response": "reply", "system": "persona"}
    assert len(open_rows(tmp_path, *rows, columns=columns)) == 2
    with pytest.raises(DatasetError) as caught:
        open_rows(tmp_path, *rows, columns=columns | {"response": "replay"})
    assert "data.columns: no record has replay; want" in str(caught.value)
    assert str(caught.value).endswith("ask, reply, persona")


def test_a_system_message_of_the_turns_counts_before_a_field(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, *SAID]
    dataset = open_rows(tmp_path, {"messages": turns, "system": "Be long."})
    assert [record.pair for record in dataset] == [AFTER_SYSTEM]
    assert dataset.account.unused == {"system": 1}


def test_messages_without_a_config_advise_no_keys(tmp_path: Path) -> None:
    rows = [
        {"title": 1},
        {"messages": [{"role": "Customer", "content": Q}]},
        {"messages": SAID, "tools": [1]},
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(DatasetError) as caught:
        read_dataset(DataConfig(path=str(path)), has_config=False)
    assert "data." not in str(caught.value).removeprefix(str(path))
    assert (
        len(list(read_rows(DataConfig(path=str(path), limit=1), lambda: iter([("index 0", rows[0])])))) == 1
    )
