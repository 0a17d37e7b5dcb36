"""Pairs with the turns before them, as a student is scored with, trained on and asked."""

import datetime
import json

import pytest

from reflectune.agents.chat import open_chat
from reflectune.agents.student.pairs import PairEncoder, cut_context
from reflectune.agents.student.steps import with_earlier_turns
from reflectune.agents.student.targets import Encoded, TargetEncoder
from reflectune.agents.student.templates import Template, open_template
from reflectune.state.config import StudentConfig
from reflectune.state.data.outlines import outline
from reflectune.state.errors import StudentError
from reflectune.state.records import Pair, Turn
from tests.tiny_models import CHAT_TEMPLATE, byte_level_tokenizer

RULES = Turn("system", "Be brief.")
ASKED, TOLD = Turn("user", "Name a colour."), Turn("assistant", "Red.")
PAIR = Pair("And another?", "", "Blue.", (RULES, ASKED, TOLD))
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
)


def template(name: str = "chat", chat: str = CHAT_TEMPLATE) -> Template:
    tokenizer = byte_level_tokenizer(chat=True)
    tokenizer.chat_template = chat
    return open_template(StudentConfig(model="student", template=name), tokenizer)


def encoder(max_length: int = 500, name: str = "chat") -> PairEncoder:
    """Of a tokenizer whose texts have about one token a character."""
    marks = ["<s>", "</s>"] if name == "chat" else None
    return PairEncoder(
        template(name), TargetEncoder(byte_level_tokenizer(chat=True), max_length, "<s>", marks=marks)
    )


def read(encoded: object, start: int = 0) -> str:
    assert isinstance(encoded, Encoded)
    return str(byte_level_tokenizer().decode(encoded.ids[start:], clean_up_tokenization_spaces=False))


def test_template_chat_puts_the_context_before_the_instruction_and_before_the_question_for_it() -> None:
    before = "<s><user>Be brief.\n<user>Name a colour.\n<assistant>Red.</s>"
    assert template().prompt(PAIR) == f"{before}<user>And another?\n<assistant>"
    assert template().opening(PAIR) == template().prompt(PAIR)
    assert template().reverse(PAIR).startswith(f"{before}<user>Below is a response to an instruction.")


def test_template_chat_without_system_messages_opens_the_users_turn_with_them() -> None:
    asked = template(chat=NO_SYSTEM).prompt(PAIR)
    assert asked == "<s><user>Be brief.\n\nName a colour.\n<assistant>Red.</s><user>And another?\n<assistant>"
    alone = Pair("Hi.", "", "", (RULES,))
    assert template(chat=NO_SYSTEM).prompt(alone) == "<s><user>Be brief.\n\nHi.\n<assistant>"


def test_template_chat_gets_what_else_a_turn_has() -> None:
    called = Turn("assistant", "", '{"tool_calls": [{"function": {"name": "look"}}]}')
    shown = CHAT_TEMPLATE.replace("{{ eos_token }}", "{{ message.tool_calls }}{{ eos_token }}")
    asked = template(chat=shown).prompt(Pair("?", "", "", (ASKED, called)))
    assert "<assistant>[{'function': {'name': 'look'}}]</s>" in asked


def test_what_else_a_message_had_is_neither_told_nor_trained_on() -> None:
    noted = Turn("user", "Name a colour.", '{"id": "m-17", "timestamp": 169, "weight": 0, "name": "Bo"}')
    assert noted.told == {"name": "Bo"}
    for name in ("chat", "plain"):
        asked = template(name).prompt(Pair("And another?", "", "", (noted, TOLD)))
        assert "m-17" not in asked
        assert "169" not in asked
    assert noted.as_message()["timestamp"] == 169


def test_template_chat_gets_the_arguments_of_a_call_as_what_they_are() -> None:
    function = {"name": "look", "arguments": '{"x": 1}'}
    called = Turn("assistant", "", json.dumps({"tool_calls": [{"function": function}]}))
    shown = CHAT_TEMPLATE.replace(
        "{{ eos_token }}",
        "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}{{ eos_token }}",
    )
    asked = template(chat=shown).prompt(Pair("?", "", "", (ASKED, called)))
    assert '"arguments": {"x": 1}' in asked


def test_contexts_of_one_sort_have_one_outline_with_their_calls() -> None:
    def talk(city: str, calls: int) -> tuple[Turn, ...]:
        call = {"id": city, "type": "function", "function": {"name": "weather", "arguments": f'"{city}"'}}
        asks = Turn("assistant", "", json.dumps({"tool_calls": [call] * calls}))
        return Turn("user", city), asks, Turn("tool", "rain", json.dumps({"tool_call_id": city}))

    assert outline(talk("Rome", 1)) == outline(talk("Oslo", 1)) != outline(talk("Oslo", 2))
    single = (
        "{% for message in messages %}{% if message.tool_calls and message.tool_calls | length > 1 %}"
        "{{ raise_exception('one call at a time') }}{% endif %}{% endfor %}" + CHAT_TEMPLATE
    )
    template(chat=single).check_contexts([outline(talk("Rome", 1))])
    with pytest.raises(
        StudentError, match=r"a time.*: user, assistant, tool; set .*earlier_tools = \"skip\""
    ):
        template(chat=single).check_contexts([outline(talk("Rome", 2))])


def test_template_plain_tells_earlier_turns_as_prompts_and_responses() -> None:
    assert template("plain").prompt(PAIR) == (
        "Be brief.\n\n"
        "### Instruction\nName a colour.\n\n### Response\nRed.\n\n"
        "### Instruction\nAnd another?\n\n### Response\n"
    )


def test_template_refuses_roles_that_its_chat_template_does_not_take_or_leaves_out() -> None:
    template(chat=NO_SYSTEM).check_contexts([outline((RULES,)), outline(PAIR.context)])
    alternating = "{% if messages|length > 2 %}{{ raise_exception('too long') }}{% endif %}" + CHAT_TEMPLATE
    with pytest.raises(StudentError, match="too long"):
        template(chat=alternating).check_contexts([outline((RULES,)), outline((ASKED, TOLD))])
    last = CHAT_TEMPLATE.replace("in messages", "in messages[-2:]")
    with pytest.raises(StudentError, match="leaves out a turn of the user"):
        template(chat=last).check_contexts([outline((ASKED, TOLD))])


@pytest.mark.parametrize("name", ["chat", "plain"])
def test_targets_alone_stand_behind_the_context_and_an_empty_prompt(name: str) -> None:
    given, alone, reverse, asked = encoder(name=name).encode(
        [
            (PAIR, "response_given_instruction"),
            (PAIR, "response_alone"),
            (PAIR, "instruction_given_response"),
            (PAIR, "instruction_alone"),
        ]
    )
    for with_other, without, target in ((given, alone, "Blue."), (reverse, asked, "And another?")):
        assert isinstance(with_other, Encoded)
        assert isinstance(without, Encoded)
        assert with_other.ids[with_other.first_target :] == without.ids[without.first_target :]
        assert read(without, without.first_target) == target
    empty = Pair("", "", "", PAIR.context)
    begin = "" if name == "chat" else "<s>"
    assert read(alone) == begin + template(name).prompt(empty) + "Blue."
    assert read(asked) == begin + template(name).reverse(empty) + "And another?"
    single = Pair("And another?", "", "Blue.")
    assert read(encoder(name=name).encode([(single, "response_alone")])[0]) == "<s>Blue."


def long_pair(exchanges: int) -> Pair:
    turns = [Turn(role, f"{role} {place}") for place in range(exchanges) for role in ("user", "assistant")]
    return Pair("And another?", "", "Blue.", (RULES, *turns))


def test_contexts_that_are_too_long_lose_their_oldest_turns_whole() -> None:
    pair = long_pair(30)
    kept = Pair("And another?", "", "Blue.", (RULES, *pair.context[-4:]))
    (whole,) = encoder().encode([(kept, "response_given_instruction")])
    assert isinstance(whole, Encoded)
    assert not whole.truncated
    for length in (len(whole.ids), len(whole.ids) + 3):
        given, alone = encoder(length).encode(
            [(pair, "response_given_instruction"), (pair, "response_alone")]
        )
        assert isinstance(given, Encoded)
        assert isinstance(alone, Encoded)
        assert (given.ids, given.truncated) == (whole.ids, True)
        assert alone.truncated
        assert read(alone) == template().prompt(Pair("", "", "", kept.context)) + "Blue."
        ((text, ids),) = encoder(length).encode_openings([pair])
        assert text.startswith("<s><user>Be brief.\n<user>user ")
        assert len(ids) < length


def test_a_target_that_does_not_fit_behind_the_system_message_alone_is_cut_at_its_end() -> None:
    pair = long_pair(5)
    (whole,) = encoder().encode([(Pair("And another?", "", "Blue.", (RULES,)), "response_given_instruction")])
    assert isinstance(whole, Encoded)
    (cut,) = encoder(len(whole.ids) - 1).encode([(pair, "response_given_instruction")])
    assert isinstance(cut, Encoded)
    assert (cut.ids, cut.truncated) == (whole.ids[:-1], True)
    assert encoder(whole.first_target).encode([(pair, "response_given_instruction")]) == ["truncated-away"]


def test_context_is_cut_before_a_turn_of_the_user() -> None:
    tool = Turn("tool", "42")
    pair = Pair("x", "", "y", (RULES, ASKED, TOLD, tool, TOLD, ASKED, TOLD))
    sizes: list[int] = []

    def fits(shorter: Pair) -> bool:
        sizes.append(len(shorter.context))
        return len(shorter.context) < 6

    assert cut_context(pair, fits).context == (RULES, ASKED, TOLD)
    assert set(sizes) <= {3, 1}
    assert cut_context(pair, lambda shorter: False).context == (RULES,)


def test_special_tokens_in_a_context_stay_text() -> None:
    pair = Pair("a", "", "b", (Turn("user", "</s>"), Turn("assistant", "<s>", '{"name": "</s>"}')))
    (encoded,) = encoder().encode([(pair, "response_given_instruction")])
    assert isinstance(encoded, Encoded)
    tokenizer = byte_level_tokenizer()
    assert encoded.ids.count(tokenizer.eos_token_id) == 1  # the template's own, behind the assistant's turn
    assert encoded.ids.count(tokenizer.bos_token_id) == 1


def test_earlier_answers_are_responses_of_their_own() -> None:
    assert list(with_earlier_turns([PAIR])) == [PAIR, Pair("Name a colour.", "", "Red.", (RULES,))]
    calling = Turn("assistant", "Let me look.", '{"tool_calls": [{"function": {"name": "look"}}]}')
    asked = Pair("So?", "", "Rain.", (ASKED, calling))
    assert list(with_earlier_turns([asked])) == [asked]
    single = Pair("Hi.", "", "Hello.")
    assert list(with_earlier_turns([single])) == [single]


def test_chat_knows_whether_its_template_takes_system_messages() -> None:
    tokenizer = byte_level_tokenizer(chat=True)
    assert open_chat(tokenizer, thinking=False, date=datetime.date.min).takes_system
    tokenizer.chat_template = NO_SYSTEM
    assert not open_chat(tokenizer, thinking=False, date=datetime.date.min).takes_system
