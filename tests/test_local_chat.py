from typing import Any

import pytest
from tokenizers import AddedToken

from reflectune.agents.teacher.engines.local_chat import LocalChat
from reflectune.agents.thoughts import drop_thoughts
from reflectune.state.config import StudentConfig
from reflectune.state.errors import StudentError
from tests.tiny_models import byte_level_tokenizer

ASK = [{"role": "user", "content": "Why?"}]
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|channel|>", "<|message|>", "<|end|>", "[THINK]", "[/THINK]")
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
END = "{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
AT_ANSWERS = "{% if m.role == 'assistant' %}"
TEMPLATES = {
    "plain": TURNS + END + "{% endif %}",
    # Closes an empty thought where none is wanted, as Qwen3.
    "switch": TURNS + AT_ANSWERS + "<think>\n\n</think>\n\n{% endif %}" + END
    + "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    # Begins the thought itself, as QwQ and DeepSeek R1.
    "always": TURNS + END + "<think>\n{% endif %}",
    # As gpt-oss.
    "channels": TURNS + AT_ANSWERS + "<|channel|>final<|message|>{% endif %}" + END + "{% endif %}",
}  # fmt: skip


def chat(template: str | None, *, thinking: bool = False) -> tuple[LocalChat, Any]:
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ("<think>", "</think>")])
    tokenizer.chat_template = template
    return LocalChat(tokenizer, StudentConfig(model="m", thinking=thinking), len(tokenizer)), tokenizer


@pytest.mark.parametrize(
    ("template", "answer", "thought"),
    [
        ("plain", "", ""),
        ("switch", "<think>\n\n</think>\n\n", ""),
        ("always", "", "<think>\n"),
        ("channels", "<|channel|>final<|message|>", ""),
    ],
)
def test_prompt_ends_where_the_answer_or_a_thought_begins(template: str, answer: str, thought: str) -> None:
    for thinking, end in ((False, answer), (True, thought)):
        local, tokenizer = chat(TEMPLATES[template], thinking=thinking)
        ids = local.encode(ASK)
        asked = "<|im_start|>user\nWhy?<|im_end|><|im_start|>assistant\n"
        assert ids == tokenizer(asked + end, add_special_tokens=False).input_ids
        assert local.stop_ids == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


@pytest.mark.parametrize(
    ("template", "written", "answer"),
    [
        ("plain", "4<|im_end|>", "4"),
        ("plain", "[THINK]2 and 2[/THINK]4", "4"),
        ("plain", "[THINK]2 and 2<|im_end|>", ""),
        ("switch", "<think>\n2 and 2\n</think>\n\n4<|im_end|>", "\n\n4"),
        ("always", "2 and 2</think>4", "4"),
        ("always", "2 and 2 is 4<|im_end|>", ""),
        (
            "channels",
            "<|channel|>analysis<|message|>2 and 2<|end|><|im_start|>assistant<|channel|>final<|message|>4",
            "4",
        ),
        ("channels", "<|channel|>analysis<|message|>2 and 2<|end|>", ""),
    ],
)
def test_marks_of_thoughts_outlast_decoding(template: str, written: str, answer: str) -> None:
    local, tokenizer = chat(TEMPLATES[template], thinking=True)
    text = local.decode(tokenizer(written, add_special_tokens=False).input_ids)
    assert "<|im_end|>" not in text
    assert drop_thoughts(text, text) == answer


def test_special_tokens_that_a_prompt_spells_out_are_letters() -> None:
    local, tokenizer = chat(TEMPLATES["plain"])
    ids = local.encode([{"role": "user", "content": "Say <|im_end|>."}])
    assert tokenizer.decode(ids).startswith("<|im_start|>user\nSay <|im_end|>.<|im_end|>")
    assert ids.count(local.stop_ids[0]) == 1


def test_contents_without_a_chat_template_stand_one_after_the_other() -> None:
    local, tokenizer = chat(None)
    assert local.encode([{"role": "system", "content": "Be brief."}, *ASK]) == (
        tokenizer("Be brief.\n\nWhy?").input_ids
    )
    assert local.stop_ids == []


def test_template_without_a_place_for_answers_is_refused() -> None:
    with pytest.raises(StudentError, match="leaves out the user's text or the answer"):
        chat("{{ messages[0].content }}")
