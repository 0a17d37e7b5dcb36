"""Conversations into samples: turns of every spelling, the exchange that is recycled, and its context."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reflectune.state.config import DataConfig
from reflectune.state.data.datasets import Dataset, assign_samples, read_dataset
from reflectune.state.data.rows import Record
from reflectune.state.errors import DatasetError
from reflectune.state.records import Pair, Turn

SYSTEM, A, B, C, D = (
    Turn("system", "Be brief."), Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"),
    Turn("assistant", "d"),
)  # fmt: skip
CHAT = (SYSTEM, A, B, C, D)


def message(turn: Turn) -> dict[str, Any]:
    return turn.as_message()


def chat(*turns: Turn) -> dict[str, Any]:
    return {"messages": [turn.as_message() for turn in turns]}


def open_rows(tmp_path: Path, *rows: object, **settings: Any) -> Dataset:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    return read_dataset(DataConfig(path=str(path), **settings))


def read_rows(tmp_path: Path, *rows: object, **settings: Any) -> list[Record]:
    return list(open_rows(tmp_path, *rows, **settings))


def refusal(tmp_path: Path, *rows: object, **settings: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        open_rows(tmp_path, *rows, **settings)
    return str(caught.value)


def summarise(records: list[Record]) -> list[tuple[Pair, int]]:
    """Pairs and turns, after the invariants that hold for every record."""
    for record in records:
        if record.conversation is None:
            assert (record.pair.context, record.turn) == ((), 0)
            continue
        turns = record.conversation.turns
        assert record.pair.context == turns[: record.turn]
        assert (turns[record.turn].role, turns[record.turn + 1].role) == ("user", "assistant")
        assert record.pair.response == turns[record.turn + 1].content
    return [(record.pair, record.turn) for record in records]


LAST, FIRST = (Pair("c", "", "d", (SYSTEM, A, B)), 3), (Pair("a", "", "b", (SYSTEM,)), 1)


@pytest.mark.parametrize(
    ("turns", "expected"), [("last", [LAST]), ("first", [FIRST]), ("each", [FIRST, LAST])]
)
def test_turns_say_which_exchanges_become_samples(tmp_path: Path, turns: str, expected: list[Any]) -> None:
    records = read_rows(tmp_path, chat(*CHAT), turns=turns)
    assert summarise(records) == expected
    assert {record.conversation.turns for record in records if record.conversation} == {CHAT}


def test_samples_of_one_row_share_its_conversation_and_those_that_are_followed_say_so(tmp_path: Path) -> None:
    dataset = open_rows(tmp_path, chat(*CHAT), chat(*CHAT, Turn("user", "e")), turns="each")
    samples = list(assign_samples(dataset, 0, seed=0))
    one, two, three, four = [sample.conversation for sample in samples]
    assert one is two
    assert three is four
    assert two is not three
    # A trailing question without an answer depends on the exchange before it too.
    assert [sample.is_followed for sample in samples] == [True, False, True, True]


SPELLINGS: dict[str, dict[str, Any]] = {
    "OpenAI": chat(*CHAT),
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, *map(message, CHAT[1:])]},
    "JSON text": {"messages": json.dumps([message(turn) for turn in CHAT])},
    "text parts": {
        "messages": [
            {"role": turn.role, "content": [{"type": "text", "text": turn.content}]} for turn in CHAT
        ]
    },
    "system field": chat(*CHAT[1:]) | {"system": "Be brief."},
    "system_prompt field": chat(*CHAT[1:]) | {"system_prompt": "Be brief."},
    "capitals": {"messages": [message(turn) | {"role": turn.role.upper()} for turn in CHAT]},
    "ShareGPT": {
        "conversations": [
            {"from": name, "value": turn.content}
            for name, turn in zip(("system", "human", "gpt", "human", "gpt"), CHAT, strict=True)
        ]
    },
    "ShareGPT, null beside": {
        "conversations": [{"from": turn.role, "value": turn.content, "weight": None} for turn in CHAT]
    },
    "prompter": {
        "system": "Be brief.",
        "messages": [
            {"role": name, "text": turn.content}
            for name, turn in zip(("prompter", "bot", "Human", "ChatGPT"), CHAT[1:], strict=True)
        ],
    },
    "texts in turn": {"system": "Be brief.", "conversations": ["a", "b", "c", "d"]},
    "exchanges": {
        "system": "Be brief.",
        "conversation": [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}],
    },
    "LLaMA-Factory": {
        "instruction": "c", "input": "", "output": "d", "system": "Be brief.", "history": [["a", "b"]],
    },
}  # fmt: skip


@pytest.mark.parametrize("row", SPELLINGS.values(), ids=SPELLINGS)
def test_conversations_are_read_in_every_spelling(tmp_path: Path, row: dict[str, Any]) -> None:
    assert summarise(read_rows(tmp_path, row)) == [LAST]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p")
    assert summarise(list(read_dataset(DataConfig(path=str(tmp_path / "p"))))) == [LAST]


def test_alpaca_row_with_history_keeps_its_input_apart(tmp_path: Path) -> None:
    row = {"instruction": "c", "input": "1 2", "output": "d", "history": [["a", "b"]]}
    first, second = read_rows(tmp_path, row, turns="each")
    assert summarise([first, second]) == [(Pair("a", "", "b"), 0), (Pair("c", "1 2", "d", (A, B)), 2)]
    assert second.conversation is not None
    assert second.conversation.turns[2].content == "c\n\n1 2"


def test_turns_keep_what_their_messages_say_beside_role_and_content(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "add"}}]}
    result = {"role": "tool", "content": "3", "tool_call_id": "1", "name": None}
    rows = {"messages": [message(A) | {"name": "Ann"}, call, result, message(B), message(C), message(D)]}
    (record,) = read_rows(tmp_path, rows)
    named, called, answered, *_ = record.pair.context
    assert named.as_message() == {"role": "user", "content": "a", "name": "Ann"}
    assert called.as_message() == call | {"content": ""}
    assert answered.as_message() == {"role": "tool", "content": "3", "tool_call_id": "1"}
    assert (record.pair.instruction, record.turn) == ("c", 4)


def test_a_blank_system_message_is_kept_where_it_says_more(tmp_path: Path) -> None:
    (record,) = read_rows(
        tmp_path, {"messages": [message(SYSTEM) | {"content": "", "functions": "f"}, message(A), message(B)]}
    )
    assert [turn.as_message() for turn in record.pair.context] == [
        {"role": "system", "content": "", "functions": "f"}
    ]


def test_a_single_exchange_stands_alone_unless_its_turns_say_more(tmp_path: Path) -> None:
    alone, more = read_rows(
        tmp_path, chat(Turn("system", " "), A, B), {"messages": [message(A) | {"name": "Ann"}, message(B)]}
    )
    assert (alone.pair, alone.conversation) == (Pair("a", "", "b"), None)
    assert more.pair == alone.pair
    assert more.conversation is not None
    assert more.conversation.turns[0].as_message()["name"] == "Ann"


CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add"}}]}
TOOLS: list[tuple[dict[str, Any], str]] = [
    ({"messages": [message(A), CALL]}, "tools are called for the answer to turn 0"),
    (
        {
            "messages": [
                message(A),
                message(B),
                message(C),
                CALL,
                {"role": "tool", "content": "3"},
                message(D),
            ]
        },
        "tools are called for the answer to turn 2",
    ),
    (
        {
            "conversations": [
                {"from": name, "value": "x"} for name in ("human", "function_call", "observation", "gpt")
            ]
        },
        "tools are called for the answer to turn 0",
    ),
    (
        {"messages": [message(A), {"role": "assistant", "content": None, "function_calls": "add(1, 2)"}]},
        "tools are called for the answer to turn 0",
    ),
    (chat(A, B) | {"tools": [{"name": "add"}]}, "declares tools"),
    (chat(A, B) | {"functions": '[{"name": "add"}]'}, "declares functions"),
]


@pytest.mark.parametrize(("row", "named"), TOOLS, ids=range(len(TOOLS)))
def test_answers_that_call_tools_are_refused_or_skipped_and_counted(
    tmp_path: Path, row: dict[str, Any], named: str
) -> None:
    message = refusal(tmp_path, chat(A, B), row)
    assert f"1 of 2 records whose answers call tools, which no teacher here can (index 1: {named})" in message
    assert 'data.odd.tools = "skip"' in message
    dataset = open_rows(tmp_path, chat(A, B), row, odd={"tools": "skip"})
    assert [record.pair for record in dataset] == [Pair("a", "", "b")]
    (skipped,) = dataset.account.skipped
    assert (skipped.kind, skipped.number, skipped.examples) == ("tools", 1, (f"index 1: {named}",))


def test_contexts_with_tools_are_taken_or_refused_or_skipped(tmp_path: Path) -> None:
    row = {
        "messages": [message(A), CALL, {"role": "tool", "content": "5"}, message(B), message(C), message(D)]
    }
    assert len(read_rows(tmp_path, row, chat(A, B))) == 2
    odd = "1 of 2 records whose earlier turns call tools (index 0: tools are called before turn 4)"
    assert odd in refusal(tmp_path, row, chat(A, B), odd={"earlier_tools": "refuse"})
    dataset = open_rows(tmp_path, row, chat(A, B), odd={"earlier_tools": "skip"})
    assert [record.pair for record in dataset] == [Pair("a", "", "b")]
    assert [(rows.kind, rows.number) for rows in dataset.account.skipped] == [("earlier_tools", 1)]


def test_earlier_calls_are_told_in_whatever_field_they_are_and_empty_ones_are_none(tmp_path: Path) -> None:
    fields: list[dict[str, Any]] = [
        {"tool_calls": [{"function": {"name": "add"}}]},
        {"function_call": {"name": "add"}},
        {"function_calls": "add(1, 2)"},
        {"tool_calls": "[]", "function_calls": []},
    ]
    told = []
    for field in fields:
        call = {"role": "assistant", "content": "", **field}
        (record,) = open_rows(tmp_path, {"messages": [message(A), call, message(C), message(D)]}, odd={})
        turn = record.pair.context[1]
        assert turn.calls_tools == bool(turn.told)
        told.append(turn.told)
    assert told == [*fields[:3], {}]


def test_of_each_exchange_only_those_that_call_tools_are_skipped(tmp_path: Path) -> None:
    row = {
        "messages": [message(A), message(B), message(C), CALL, {"role": "tool", "content": "3"}, message(D)]
    }
    row["messages"] += [{"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}]
    dataset = open_rows(tmp_path, row, turns="each", odd={"tools": "skip"})
    assert [(pair.instruction, turn) for pair, turn in summarise(list(dataset))] == [("a", 0), ("e", 6)]
    assert [(rows.kind, rows.number) for rows in dataset.account.skipped] == [("tools", 1)]
    for empty in ([], "", "[]", None):
        assert len(read_rows(tmp_path, chat(A, B) | {"tools": empty})) == 1


ODD: list[tuple[str, dict[str, Any], str, str]] = [
    ("roles", {"messages": [{"role": "Customer", "content": "a"}, message(B)]}, "Customer", "data.roles"),
    ("turns", chat(A, SYSTEM, B), "turn 1 is between question and answer", "repair"),
    (
        "media",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, message(B)]},
        "a turn with image_url",
        "images or sound",
    ),
    ("invalid", chat(A), "its turns: user; want user, assistant", "without a usable"),
    ("invalid", chat(A, B, C, Turn("assistant", " ")), "blank response", "without a usable"),
]


@pytest.mark.parametrize(
    ("kind", "row", "named", "advice"), ODD, ids=[f"{n}-{odd[0]}" for n, odd in enumerate(ODD)]
)
def test_odd_conversations_have_a_kind_and_a_policy(
    tmp_path: Path, kind: str, row: dict[str, Any], named: str, advice: str
) -> None:
    message = refusal(tmp_path, chat(A, B), row)
    assert named in message
    assert advice in message
    dataset = open_rows(tmp_path, chat(A, B), row, odd={kind: "skip"})
    assert len(dataset) == 1
    assert [(rows.kind, rows.number) for rows in dataset.account.skipped] == [(kind, 1)]


def test_roles_name_other_speakers(tmp_path: Path) -> None:
    row = {"messages": [{"role": "Customer", "content": "a"}, {"role": " agent", "content": "b"}]}
    assert len(read_rows(tmp_path, row, roles={"user": ["customer"], "assistant": ["Agent"]})) == 1


def test_limit_counts_pairs_but_takes_a_conversation_whole(tmp_path: Path) -> None:
    rows = [chat(*CHAT), chat(*CHAT), chat(*CHAT)]
    assert [len(read_rows(tmp_path, *rows, turns="each", limit=n)) for n in range(1, 6)] == [2, 2, 4, 4, 6]


def test_conversations_that_begin_alike_are_on_one_side(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for n in range(8):
        first, more = Turn("user", f"question {n}"), Turn("user", f"and {n}?")
        rows += [chat(SYSTEM, first, B, more, D), chat(first, D, more, Turn("assistant", f"{n}"))]
        rows += [chat(first, B), {"instruction": "question", "input": str(n), "output": "d"}]
    samples = list(assign_samples(open_rows(tmp_path, *rows, turns="each"), 6, seed=2))
    assert len(samples) == 8 * 6
    sides = [{sample.split for sample in samples[n * 6 : n * 6 + 6]} for n in range(8)]
    assert Counter(map(tuple, sides)) == {("train",): 7, ("holdout",): 1}


@pytest.mark.parametrize("seed", range(5))
def test_conversations_of_which_the_same_is_recycled_are_on_one_side(tmp_path: Path, seed: int) -> None:
    """Three join by their last questions and the pair, another by its beginning; five stand alone."""
    rows: list[dict[str, Any]] = [
        chat(Turn("user", "hello"), B, C, D),
        chat(Turn("user", "hi"), B, Turn("user", " C "), D),
        chat(Turn("user", "HI"), B, Turn("user", "e"), D),
        {"instruction": "E", "output": "d"},
    ]
    rows += [chat(Turn("user", f"{n}"), B, Turn("user", f"and {n}?"), D) for n in range(5)]
    for holdout in (1, 4, 5):
        samples = list(assign_samples(open_rows(tmp_path, *rows), holdout, seed))
        sides = [sample.split for sample in samples]
        assert len(set(sides[:4])) == 1
        assert sides.count("holdout") == holdout
