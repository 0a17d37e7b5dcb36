import datetime

import pytest
from tokenizers import AddedToken

from reflectune.agents.chat import find_separator, open_chat
from reflectune.state.errors import StudentError
from tests.tiny_models import byte_level_tokenizer

DAY = datetime.date(2024, 7, 26)
ASK = [{"role": "user", "content": "Add."}]
TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
ROLES = ("<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The channel of an answer stands in no generation prompt, as with gpt-oss.
CHANNELS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m.content }}{{ '<|return|>' if loop.last else '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
IN_PARTS = "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"


def tokenizer(template=None, tokens=(), **special):
    made = byte_level_tokenizer()
    made.add_tokens([AddedToken(token, special=True) for token in tokens])
    for name, token in special.items():
        setattr(made, name, token)
    made.chat_template = template
    return made


def chat(template, tokens=(), thinking=False):
    return open_chat(tokenizer(template, tokens), thinking=thinking, date=DAY)


@pytest.mark.parametrize(
    ("template", "opening", "end"),
    [
        (CHATML, "<|im_start|>user\nAdd.<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
        (
            CHANNELS,
            "<|im_start|>user<|message|>Add.<|im_end|><|im_start|>assistant<|channel|>final<|message|>",
            "<|return|>",
        ),
        (TURNS + "{% endfor %}", "[user]Add.[assistant]", None),
        (TURNS + " </s>{% endfor %}", "[user]Add. </s>[assistant]", "</s>"),
        (IN_PARTS, "[user]Add.[assistant]", None),
        (
            "{% for m in messages %}[{{ m.role }}]{{ m.content[0].text.strip() }}{% endfor %}",
            "[user]Add.[assistant]",
            None,
        ),
    ],
)
def test_answer_stands_where_the_template_puts_it(template, opening, end):
    opened = chat(template, (*ROLES, "<|channel|>", "<|message|>", "<|return|>"))
    assert opened.open_answer(ASK) == opening
    assert opened.end_of_turn() == end


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ raise_exception('only with a system turn') }}",
            "does not take messages: only with a system turn",
        ),
        ("{{ messages[1].content }}", "leaves out the user's text or the answer"),
        ("{{ messages[0].content }}", "leaves out the user's text or the answer"),
        ("{% for m in messages %}", "does not take messages: "),
    ],
)
def test_template_that_fails_or_leaves_a_text_out_is_refused(template, message):
    with pytest.raises(StudentError, match=message):
        chat(template)


def test_template_is_told_one_date_and_whether_to_think():
    text = "{{ strftime_now('%Y-%m-%d') }}|{{ date_string }}|{{ enable_thinking }}|{{ thinking }}|"
    settings = [chat(text + TURNS + "{% endfor %}", thinking=thinking) for thinking in (False, True)]
    assert settings[0].open_answer(ASK).startswith("2024-07-26|26 Jul 2024|False|False|[user]")
    assert settings[1].open_answer(ASK).startswith("2024-07-26|26 Jul 2024|True|True|[user]")


@pytest.mark.parametrize(
    ("template", "special", "separator"),
    [
        (None, {}, "<s>"),
        (None, {"bos_token": None}, "</s>"),
        (CHATML, {}, "<s>"),
        (CHATML, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}, "<|endoftext|>"),
        (CHATML, {"bos_token": None, "eos_token": "<|im_end|>"}, "<|endoftext|>"),
        (CHATML, {"bos_token": "<|im_start|>", "eos_token": "</s>"}, "</s>"),
        ("{{ raise_exception('no') }}", {"bos_token": "<|im_start|>"}, "<|im_start|>"),
        # At the beginning of all and behind an answer a token separates documents.
        ("<s>" + TURNS + "{% endfor %}<s>", {"eos_token": "<s>"}, "<s>"),
    ],
)
def test_separator_is_no_turn_mark(template, special, separator):
    assert find_separator(tokenizer(template, (*ROLES, "<|endoftext|>"), **special)) == separator


def test_separator_is_bos_or_eos_where_nothing_else_is_known():
    marked = tokenizer(CHATML, ROLES, bos_token="<|im_start|>", eos_token="<|im_end|>")
    assert find_separator(marked) == "<|im_start|>"
    with pytest.raises(StudentError, match="neither a BOS nor an EOS"):
        find_separator(tokenizer(bos_token=None, eos_token=None))
