import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from reflectune.agents.chat import find_separator
from reflectune.agents.student.targets import Encoded, TargetEncoder
from reflectune.state.errors import StudentError
from tests.tiny_models import byte_level_tokenizer, letter_tokenizer, metaspace_tokenizer

BYTE_LEVEL, METASPACE, LETTERS = byte_level_tokenizer(), metaspace_tokenizer(), letter_tokenizer("abcxyz")


texts = st.text(st.characters(codec="utf-8"), max_size=30)
targets = texts.filter(bool)


def encode(tokenizer, prefix, target, max_length=1000):
    return TargetEncoder(tokenizer, max_length, find_separator(tokenizer)).encode([(prefix, target)])[0]


def colon_space_tokenizer():
    """A byte-level tokenizer with a token ": ", whose post-processor trims offsets."""
    vocabulary = {token: index for index, token in enumerate(["<s>", "a", "b", ":", "Ġ", ":Ġ"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(":", "Ġ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    wrapped.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return wrapped


@pytest.mark.parametrize(
    ("prefix", "target", "encoded"),
    [
        ("ab", "xy", Encoded([0, 2, 3, 5, 6], first_target=3)),  # <s> a b | x y
        ("", "xy", Encoded([0, 5, 6], first_target=1)),
        ("<s>ab", "xy", Encoded([0, 2, 3, 5, 6], first_target=3)),  # no second BOS
        ("", "<s>x", Encoded([0, 0, 5], first_target=1)),  # a BOS that is part of the target
        ("ab", "", "empty"),
        ("", "", "empty"),
    ],
)
def test_encode_scores_the_tokens_of_the_target_behind_bos(prefix, target, encoded):
    assert encode(LETTERS, prefix, target) == encoded


def test_encode_puts_eos_in_front_where_there_is_no_bos():
    tokenizer = byte_level_tokenizer(bos=False)
    alone, given_ = (encode(tokenizer, prefix, "blue") for prefix in ("", "\n"))
    assert alone.ids[0] == given_.ids[0] == tokenizer.eos_token_id
    assert alone.ids[alone.first_target :] == given_.ids[given_.first_target :]


def test_encode_counts_a_token_across_the_boundary_as_target():
    # "col" and "ours" meet in one token, which reaches into the target.
    whole = encode(BYTE_LEVEL, "", "The colours")
    straddling = encode(BYTE_LEVEL, "The col", "ours")
    tokens = BYTE_LEVEL.convert_ids_to_tokens(straddling.ids)
    assert straddling.ids == whole.ids
    assert tokens[straddling.first_target] == "Ġcolours"


def test_encode_sees_through_trimmed_offsets_and_leaves_the_tokenizer_as_it_was():
    # "a: b" is a, ": ", b. Trimmed, ": " ends at 2, before the space that begins the target.
    tokenizer = colon_space_tokenizer()
    before = tokenizer.backend_tokenizer.to_str()
    trimmed = tokenizer("a: b", add_special_tokens=False, return_offsets_mapping=True)
    assert trimmed.offset_mapping == [(0, 1), (1, 2), (3, 4)]
    assert encode(tokenizer, "a:", " b") == Encoded([0, 1, 5, 2], first_target=2)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_encode_ignores_truncation_and_padding_of_the_tokenizer_file():
    tokenizer = letter_tokenizer("abcxyz")
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    assert encode(tokenizer, "ab", "xy") == encode(LETTERS, "ab", "xy")


def test_encode_keeps_a_whitespace_target():
    encoded = encode(BYTE_LEVEL, "Response", "\n\n")
    assert BYTE_LEVEL.decode(encoded.ids[encoded.first_target :]) == "\n\n"


def test_encode_of_a_target_without_tokens_is_empty():
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "a": 1}, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    assert encode(wrapped, "a", "  ") == "empty"


def test_encode_prompts_are_not_cut_and_begin_with_one_bos():
    encoder = TargetEncoder(LETTERS, 2, "<s>")
    assert encoder.encode_prompts(["abc", "<s>a", ""]) == [[0, 2, 3, 4], [0, 2], [0]]


def test_encode_opens_no_prompt_that_a_chat_template_made():
    encoder = TargetEncoder(LETTERS, 10, "<s>", marks=["</s>"])
    assert encoder.encode_prompts(["ab"]) == [[2, 3]]
    encoded = encoder.encode([("ab", "xy")])[0]
    assert encoded == Encoded([2, 3, 5, 6], first_target=2)
    assert encoder.alone(encoded) == Encoded([0, 5, 6], first_target=1)


def test_target_alone_is_the_tokens_behind_its_prompt():
    # Alone a text begins with a space to this tokenizer, behind a prompt it does not.
    prompt, target = "Write the plural of mouse.\n", "mice"
    encoder = TargetEncoder(METASPACE, 10, "<s>")
    behind = encode(METASPACE, prompt, target)
    assert behind.ids[behind.first_target :] != METASPACE(target, add_special_tokens=False).input_ids
    assert encoder.alone(behind) == Encoded([0, *behind.ids[behind.first_target :]], 1)
    assert encoder.alone("empty") == "empty"


def test_encoder_refuses_a_separator_that_is_no_token():
    with pytest.raises(StudentError, match=r"student\.separator = '<end>': the tokenizer has no such token"):
        TargetEncoder(LETTERS, 10, "<end>")
    with pytest.raises(StudentError, match="prompts hold '</s>', for which the model has no embedding"):
        TargetEncoder(LETTERS, 10, "<s>", marks=["</s>"], embeddings=1)


@given(texts, targets)
def test_encode_of_byte_level_targets_starts_at_the_byte_after_the_prefix(prefix, target):
    encoded = encode(BYTE_LEVEL, prefix, target)
    end, expected = 0, None
    for index, token in enumerate(BYTE_LEVEL.convert_ids_to_tokens(encoded.ids)[1:], 1):
        end += len(token)  # one character a byte
        # A character cut into bytes belongs to one side as a whole.
        if expected is None and end > len(prefix.encode()):
            expected = index
    assert encoded.first_target == expected
    assert BYTE_LEVEL.decode(encoded.ids[1:]) == prefix + target


@given(st.lists(st.tuples(texts, targets), max_size=8), st.sampled_from([BYTE_LEVEL, METASPACE]))
def test_encode_in_a_batch_equals_one_by_one(items, tokenizer):
    encoder = TargetEncoder(tokenizer, 20, "<s>")
    assert encoder.encode(items) == [encoder.encode([item])[0] for item in items]


@given(texts, targets, st.integers(1, 40), st.sampled_from([BYTE_LEVEL, METASPACE]))
def test_encode_within_max_length_is_a_beginning_of_the_whole(prefix, target, max_length, tokenizer):
    whole = encode(tokenizer, prefix, target)
    cut = encode(tokenizer, prefix, target, max_length)
    assert 1 <= whole.first_target < len(whole.ids)
    if whole.first_target >= max_length:
        assert cut == "truncated-away"
    else:
        assert cut.ids == whole.ids[:max_length]
        assert cut.first_target == whole.first_target
        assert cut.truncated == (len(whole.ids) > max_length)
