import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from reflectune.agents.encoding import TextEncoder
from tests.tiny_models import byte_level_tokenizer, metaspace_tokenizer

NAMES = ("<s>", "</s>", "<|im_end|>", "<|User|>")
words = st.lists(st.sampled_from([*NAMES, "a", " ", "é", "\n", "<", "im_end"]), max_size=8).map("".join)


def chat_tokenizer():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True), AddedToken("<|User|>"), AddedToken("<b>")])
    return tokenizer


CHAT = chat_tokenizer()


@given(words)
def test_data_keeps_its_text_and_holds_no_token_of_the_prompt(data):
    encoder = TextEncoder(CHAT, marks=["<|User|>"])
    before, behind = "<s><|User|>", "<|im_end|>\n"
    (encoding,) = encoder.encode([before + encoder.hide(data) + behind])
    marks = set(CHAT.convert_tokens_to_ids(list(NAMES)))
    assert [id for id in encoding.ids if id in marks] == CHAT.convert_tokens_to_ids(
        ["<s>", "<|User|>", "<|im_end|>"]
    )
    assert CHAT.decode(encoding.ids) == before + data + behind
    ends = [end for _, end in encoding.offsets]
    assert ends == sorted(ends)
    assert ends[-1] == len(before + data + behind)


@given(st.text())
def test_data_without_names_is_encoded_as_ever(data):
    encoder = TextEncoder(CHAT)
    hidden = encoder.hide(data)
    if hidden == data:
        assert encoder.encode([data])[0].ids == CHAT(data, add_special_tokens=False).input_ids


def test_tokens_that_are_not_special_stay_tokens_in_data():
    encoder = TextEncoder(CHAT)
    bold = CHAT.convert_tokens_to_ids("<b>")
    (encoding,) = encoder.encode([encoder.hide("a <b> </s>")])
    assert bold in encoding.ids
    assert CHAT.eos_token_id not in encoding.ids


def test_tokens_that_the_model_cannot_embed_are_text():
    bold = CHAT.convert_tokens_to_ids("<b>")
    encoder = TextEncoder(CHAT, embeddings=bold)
    (encoding,) = encoder.encode([encoder.hide("a <b> c")])
    assert max(encoding.ids) < bold
    assert CHAT.decode(encoding.ids) == "a <b> c"


def test_a_special_token_that_is_a_word_of_the_language_is_text_in_data():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "the"})  # which others are made of, such as " the"
    encoder = TextEncoder(tokenizer)
    (encoding,) = encoder.encode([encoder.hide("the plural of the mouse </s>")])
    assert tokenizer.decode(encoding.ids) == "the plural of the mouse </s>"
    assert tokenizer.eos_token_id not in encoding.ids


def test_tags_of_thoughts_stay_tokens_in_data():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([AddedToken("<think>", special=True)])
    encoder = TextEncoder(tokenizer)
    assert encoder.hide("<think>a</s>").startswith("<think>a")


@pytest.mark.parametrize("tokenizer", [byte_level_tokenizer(), metaspace_tokenizer()])
def test_encoder_leaves_the_tokenizer_as_it_is(tokenizer):
    before = tokenizer.backend_tokenizer.to_str()
    TextEncoder(tokenizer).encode(["a b"])
    assert tokenizer.backend_tokenizer.to_str() == before
