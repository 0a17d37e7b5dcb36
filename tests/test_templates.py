import codecs
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectune.agents.student.templates import Template, open_template
from reflectune.state.config import StudentConfig
from reflectune.state.errors import StudentError
from reflectune.state.records import Pair
from tests.tiny_models import byte_level_tokenizer


def student(template):
    return StudentConfig(model="student", template=template)


# As Qwen3's: a thought stands before every answer, and may be switched off.
THINKING = (
    "U:{{ messages[0]['content'] }}|A:{% if messages[1] %}<think>\n\n</think>\n\n{{ messages[1]['content'] }}"
    "{% elif enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}"
)
OWN = {
    "prompt": "Q: {instruction}\nA: ",
    "prompt_with_input": "Q: {instruction} [{input}]\nA: ",
    "reverse": "A: {response}\nQ: ",
    "target_with_input": "{instruction}{input}",
}


@pytest.fixture
def own_file(tmp_path):
    def write(**changes):
        lines = [f"{key} = '''{text}'''" for key, text in (OWN | changes).items() if text is not None]
        path = tmp_path / "own.toml"
        path.write_text("\n".join(lines), encoding="utf-8")
        return str(path)

    return write


def test_template_plain_shows_instruction_input_and_response():
    template = open_template(student("plain"), None)
    assert template.prompt(Pair("Add.", "", "3")) == "### Instruction\nAdd.\n\n### Response\n"
    with_input = "### Instruction\nAdd.\n\n### Input\n1 2\n\n### Response\n"
    assert template.prompt(Pair("Add.", "1 2", "3")) == with_input
    assert template.reverse(Pair("", "", "three")) == (
        "### Instruction\nWrite the instruction that the input is a response to.\n\n"
        "### Input\nthree\n\n### Response\n"
    )
    assert template.instruction_target(Pair("Add.", "1 2", "3")) == "Add.\n1 2"
    assert template.instruction_target(Pair("Add.", " \n", "3")) == "Add."


def test_template_file_is_rendered_as_written(own_file):
    template = open_template(student(own_file()), None)
    assert template.prompt(Pair("Add.", "1 2", "3")) == "Q: Add. [1 2]\nA: "
    assert template.reverse(Pair("", "", "3")) == "A: 3\nQ: "
    assert template.instruction_target(Pair("Add.", "1 2", "3")) == "Add.1 2"


def test_template_file_need_not_say_how_the_instruction_is_a_target_and_may_hold_braces(own_file):
    template = open_template(
        student(own_file(target_with_input=None, prompt='{"q": "{instruction}"} {} ')), None
    )
    assert template.instruction_target(Pair("Add.", "1 2", "3")) == "Add.\n1 2"
    assert template.prompt(Pair("Add.", "", "3")) == '{"q": "Add."} {} '


@given(st.text(), st.text(min_size=1).filter(str.strip), st.text())
def test_template_never_substitutes_into_a_value(instruction, given_input, response):
    template = Template(OWN)
    pair = Pair("{input}{response}" + instruction, "{instruction}{0}" + given_input, response + "{")
    assert template.prompt(pair) == f"Q: {pair.instruction} [{pair.input}]\nA: "
    assert template.reverse(pair) == f"A: {pair.response}\nQ: "
    assert template.instruction_target(pair) == pair.instruction + pair.input


def test_template_chat_is_one_user_turn_that_awaits_an_answer():
    template = open_template(student("chat"), byte_level_tokenizer(chat=True))
    assert template.prompt(Pair("Add.", "", "3")) == "<s><user>Add.\n<assistant>"
    assert template.prompt(Pair("Add.", "1 2", "3")) == "<s><user>Add.\n\n1 2\n<assistant>"
    asked = template.reverse(Pair("", "", "Three."))
    assert asked.startswith("<s><user>Below is a response to an instruction.")
    assert asked.endswith("\n\nThree.\n<assistant>")
    assert template.instruction_target(Pair("Add.", "1 2", "3")) == "Add.\n1 2"


def test_template_chat_gives_a_response_with_its_own_thoughts_no_empty_thought():
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = THINKING
    template = open_template(student("chat"), tokenizer)
    thought = Pair("Add.", "", "<think>\n1, 2.\n</think>\n\n3")
    assert template.prompt(Pair("Add.", "", "3")) == "U:Add.|A:<think>\n\n</think>\n\n"
    assert template.opening(thought) == template.prompt(Pair("Add.", "", "3"))
    assert template.render(thought, "response_alone") == ("U:Add.|A:", thought.response)
    tokenizer.chat_template = THINKING.replace("<think>\n\n</think>\n\n", "</think>")  # as DeepSeek V3.1
    template = open_template(student("chat"), tokenizer)
    assert template.prompt(Pair("Add.", "", "3")) == "U:Add.|A:</think>"
    assert template.render(thought, "response_alone") == ("U:Add.|A:", thought.response)


def test_template_chat_of_a_student_that_may_think_opens_before_its_thoughts():
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = THINKING
    template = open_template(student("chat").model_copy(update={"thinking": True}), tokenizer)
    assert template.opening(Pair("Add.", "", "")) == "U:Add.|A:<think>\n"
    assert template.prompt(Pair("Add.", "", "3")) == "U:Add.|A:<think>\n\n</think>\n\n"


def test_template_chat_that_is_not_there_is_refused():
    with pytest.raises(StudentError, match=r'set student\.template = "plain"'):
        open_template(student("chat"), byte_level_tokenizer())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reverse": None}, "reverse must be a string, got nothing"),
        ({"reverse": None, "reverse.text": "x"}, r"reverse must be a string, got \{'text'"),
        ({"prompts": "x"}, "unknown key prompts; a template has prompt, prompt_with_input, reverse"),
        ({"prompt": "{instruction} {response}"}, r"prompt cannot use \{response\}"),
        ({"prompt": "{instruktion}"}, r"prompt cannot use \{instruktion\}; its fields are \{instruction\}"),
        ({"prompt_with_input": "{instruction}"}, r"must use \{instruction\} and \{input\}"),
        ({"reverse": "what was it?"}, r"reverse must use \{response\}"),
    ],
)
def test_template_file_with_a_mistake_is_refused(own_file, changes, message):
    with pytest.raises(StudentError, match=message) as caught:
        open_template(student(own_file(**changes)), None)
    assert "\n" not in str(caught.value)


def test_template_file_that_is_missing_or_no_toml_is_refused(tmp_path):
    with pytest.raises(StudentError, match="no such template; want chat, plain, vicuna or a TOML file"):
        open_template(student(str(tmp_path / "none.toml")), None)
    (tmp_path / "broken.toml").write_text("prompt = ", encoding="utf-8")
    with pytest.raises(StudentError, match=r"broken\.toml: not valid TOML: "):
        open_template(student(str(tmp_path / "broken.toml")), None)


def test_template_file_may_begin_with_a_byte_order_mark(own_file):
    path = Path(own_file())
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert open_template(student(str(path)), None) == Template(OWN)


@pytest.mark.parametrize("text", ["prompt = " + "[" * 100_000, "prompt" + ".a" * 5000 + " = 1"])
def test_template_file_nested_absurdly_is_refused_in_a_line(tmp_path, text):
    (tmp_path / "deep.toml").write_text(text, encoding="utf-8")
    with pytest.raises(StudentError, match=r"deep\.toml: .*(nested too deeply|got \{)") as caught:
        open_template(student(str(tmp_path / "deep.toml")), None)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200 + len(str(tmp_path))
