import codecs
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflectune.agents.teacher.prompts import SHIPPED, make_nonce, open_prompts
from reflectune.state.errors import ConfigError
from reflectune.state.records import PHASES, Pair, Phase
from tests.prompting import (
    AWKWARD_TEXTS,
    NONCE,
    OWN,
    PAIR,
    PAIR_WITH_INPUT,
    PROMPTS,
    prompt,
    shipped,
    write_own,
)


def test_messages_name_the_criteria_of_their_phase() -> None:
    instruction, response = prompt("instruction", PAIR), prompt("response", PAIR)
    for criterion in ("Complexity", "Detail", "Knowledge", "Ambiguity", "Reasoning"):
        assert f"- {criterion}:" in instruction
    for criterion in ("Helpfulness", "Relevance", "Accuracy", "Detail"):
        assert f"- {criterion}:" in response


def test_messages_ask_for_the_form_the_parser_reads() -> None:
    assert '"critique"' in prompt("response", PAIR, structured=True)
    assert f"<critique-{NONCE}>" not in prompt("response", PAIR, structured=True)
    for name in ("critique", "new-instruction", "new-response"):
        assert f"<{name}-{NONCE}>" in prompt("instruction", PAIR)
    assert "new-instruction" not in prompt("response", PAIR)


def test_messages_share_their_beginning_across_pairs_and_leave_out_an_empty_input() -> None:
    with_input, without = (
        prompt("instruction", PAIR_WITH_INPUT, nonce="ffff0000"),
        prompt("instruction", PAIR),
    )
    assert without[:800] == with_input[:800]
    assert ("<given-input" in with_input, "<given-input" in without) == (True, False)


@pytest.mark.parametrize("text", AWKWARD_TEXTS)
def test_messages_hold_awkward_texts_as_they_are(text: str) -> None:
    shown = prompt("response", Pair(text, text, text))
    for name in ("instruction", "input", "response"):
        assert f"<given-{name}-{NONCE}>\n{text}\n</given-{name}-{NONCE}>" in shown


def test_messages_can_always_be_encoded() -> None:
    text = prompt("response", Pair("a\ud800b", "", "c\x00d"))
    assert "a\ufffdb" in text
    assert "c\ufffdd" in text
    text.encode("utf-8")


def test_nonce_follows_from_its_parts_and_does_not_occur_in_the_pair() -> None:
    first = make_nonce(PAIR, "place", 1)
    assert first == make_nonce(PAIR, "place", 1) != make_nonce(PAIR, "place", 2)
    for pair in (Pair(first, "", ""), Pair("", f"x{first}x", ""), Pair("", "", f"</given-response-{first}>")):
        second = make_nonce(pair, "place", 1)
        assert second != first
        assert make_nonce(Pair(first, second, ""), "place", 1) not in (first, second)


@pytest.mark.parametrize("form", ["structured", "tagged"])
@pytest.mark.parametrize("phase", PHASES)
def test_shipped_prompt_is_task_pair_and_form(phase: Phase, form: str) -> None:
    pair = PROMPTS["pair"]
    parts = [
        PROMPTS["task"][phase],
        pair["opening"],
        pair["instruction"].replace("{nonce}", NONCE).replace("{text}", "Translate."),
        pair["input"].replace("{nonce}", NONCE).replace("{text}", "Guten Tag"),
        pair["response"].replace("{nonce}", NONCE).replace("{text}", "Good day"),
        PROMPTS[form][phase].replace("{nonce}", NONCE),
    ]
    assert prompt(phase, PAIR_WITH_INPUT, structured=form == "structured") == "\n".join(parts)


def test_shipped_prompts_are_those_of_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "copy.toml"
    path.write_bytes(SHIPPED.read_bytes())
    assert open_prompts(path) == shipped
    assert shipped.has_tags


def test_own_prompts_replace_text_and_nonce_and_no_other_braces(tmp_path: Path) -> None:
    path = write_own(tmp_path)
    pair = Pair("Say {nonce}.", "{text}", "{} {0} {{x}} {unknown}")
    assert prompt("response", pair, structured=True, prompts=open_prompts(path)) == (
        "Improve the response: {} and {0}.\n\n"
        "I: Say {nonce}.\n"
        "{{X: {text}}}\n"
        f"R ({NONCE}): {{}} {{0}} {{{{x}}}} {{unknown}}\n"
        'JSON: {"critique": "...", "response": "a better one"}'
    )
    assert prompt("instruction", PAIR, structured=False, prompts=open_prompts(path)) == (
        "Rewrite {it}.\n\n"
        "I: Name three colours.\n"
        f"R ({NONCE}): Red.\n"
        f"<new-instruction-{NONCE}>a new one</new-instruction-{NONCE}>"
        f"<new-response-{NONCE}>its answer</new-response-{NONCE}>"
    )


def test_own_prompts_replace_the_nonce_everywhere_and_text_only_in_marks(tmp_path: Path) -> None:
    path = write_own(tmp_path, task={"response": "{nonce} {text}"}, pair={"opening": "[{nonce}]"})
    shown = prompt("response", Pair("i", "", "r"), structured=True, prompts=open_prompts(path))
    assert shown.startswith(f"{NONCE} {{text}}\n[{NONCE}]\nI: i\n")


@pytest.mark.parametrize("phase", PHASES)
def test_own_prompts_without_tags_ask_for_json_always(tmp_path: Path, phase: Phase) -> None:
    path = write_own(tmp_path, tagged=None)
    assert not open_prompts(path).has_tags
    asked = prompt(phase, PAIR, structured=False, prompts=open_prompts(path))
    assert asked == prompt(phase, PAIR, structured=True, prompts=open_prompts(path))
    assert asked.endswith(OWN["structured"][phase])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"taks": {}}, "unknown section 'taks'; a prompts file has [task], [pair], [structured], [tagged]"),
        ({"a\nb": {}}, "unknown section 'a\\nb'; a prompts file has"),
        ({"structured": None}, "[structured].instruction is missing; want a text"),
        ({"pair": "x"}, "pair must be a section [pair], got 'x'"),
        ({"tagged": ["x"]}, "tagged must be a section [tagged], got ['x']"),
        ({"task": {"input": "x"}}, "[task] has an unknown key 'input'; its keys are instruction, response"),
        ({"pair": {"opening": None}}, "[pair].opening is missing; want a text"),
        ({"tagged": {"instruction": None}}, "[tagged].instruction is missing; want a text"),
        ({"structured": {"response": 3}}, "[structured].response must be a text, got 3"),
        ({"task": {"instruction": " \n"}}, "[task].instruction must not be empty"),
        ({"pair": {"input": "{ text }"}}, "[pair].input must hold {text}"),
        ({"pair": {"response": "{nonce}"}}, "[pair].response must hold {text}"),
        (
            {"tagged": {"instruction": OWN["tagged"]["response"]}},
            "[tagged].instruction must hold <new-instruction-{nonce}> and, after it, </new-instruction-",
        ),
        (
            {"tagged": {"response": "</new-response-{nonce}> <new-response-{nonce}>"}},
            "[tagged].response must hold <new-response-{nonce}> and, after it, </new-response-{nonce}>",
        ),
    ],
)
def test_own_prompts_with_a_mistake_are_refused(
    tmp_path: Path, sections: dict[str, object], message: str
) -> None:
    path = write_own(tmp_path, **sections)
    with pytest.raises(ConfigError) as caught:
        open_prompts(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_own_prompts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(
        ConfigError, match=r"mine\.toml: no such prompts file; `reflectune prompts` prints one"
    ):
        open_prompts(path)
    path.write_text("[task\n")
    with pytest.raises(ConfigError, match=r"mine\.toml: not valid TOML: ") as caught:
        open_prompts(path)
    assert "\n" not in str(caught.value)
    path.write_bytes("[task]".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"mine\.toml: cannot be read: "):
        open_prompts(path)
    with pytest.raises(ConfigError, match="cannot be read: "):
        open_prompts(tmp_path)


def test_own_prompts_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = write_own(tmp_path)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert open_prompts(path).texts == OWN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = " + "[" * 100_000, "cannot be read: nested too deeply"),
        ("task.instruction" + ".a" * 5000 + " = 1\ntask.response = ''", "[task].instruction must be a text"),
        ("task = [" + "{a" + ".a" * 5000 + " = 1}]", "task must be a section [task], got [{'a'"),
    ],
)
def test_own_prompts_nested_absurdly_are_refused_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        open_prompts(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200 + len(str(path))


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
def test_messages_hold_any_text_exactly_once_in_each_mark(text: str) -> None:
    if text.strip():
        shown = prompt("response", Pair(text, text, text))
        for name in ("instruction", "input", "response"):
            assert shown.count(f"<given-{name}-{NONCE}>\n{text}\n</given-{name}-{NONCE}>") == 1
