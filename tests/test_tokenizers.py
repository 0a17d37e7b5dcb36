import io
import json
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reflectune.agents import model_files
from reflectune.agents.model_files import find_fault
from reflectune.agents.student.templates import check_student
from reflectune.agents.tokenizers import open_tokenizer
from reflectune.state.config import StudentConfig
from reflectune.state.errors import StudentError
from tests.tiny_models import TEXTS, byte_level_tokenizer, letter_tokenizer, metaspace_tokenizer

TEXT = "Say hello\n\n\tin German.  🙂 Grüße"


def save(folder: Path, tokenizer: PreTrainedTokenizerFast, kind: str, **settings: str) -> Path:
    """A tokenizer's files beside the config.json of a kind of model."""
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def open_in(folder: Path) -> PreTrainedTokenizerFast:
    return open_tokenizer(StudentConfig(model=str(folder)))


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def convert(folder: Path) -> None:
    """Do as the refusal says."""
    with pytest.raises(StudentError) as caught:
        open_in(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}: the tokenizer could not be opened: ")
    assert "\n" not in message
    exec(re.search('`python -c "(.*)"`', message)[1])


def test_tokenizer_that_transformers_builds_anew_and_wrong_is_the_files_own(tmp_path):
    given = byte_level_tokenizer(chat=True)
    save(tmp_path, given, "llama", tokenizer_class="LlamaTokenizerFast")
    wrong = AutoTokenizer.from_pretrained(tmp_path)
    assert wrong.decode(encode(wrong, TEXT)) != TEXT  # else there is no need for any of this
    opened = open_in(tmp_path)
    assert encode(opened, TEXT) == encode(given, TEXT)
    assert opened.decode(encode(opened, TEXT)) == TEXT
    assert (opened.bos_token_id, opened.eos_token_id) == (given.bos_token_id, given.eos_token_id)
    assert opened.chat_template == given.chat_template


@pytest.mark.parametrize("build", [byte_level_tokenizer, metaspace_tokenizer, lambda: letter_tokenizer("ab")])
def test_tokenizers_of_every_kind_come_as_they_are(tmp_path, build):
    given = build()
    assert encode(open_in(save(tmp_path, given, "llama")), TEXT) == encode(given, TEXT)


def test_tokenizer_file_that_pads_and_cuts_loses_nothing(tmp_path):
    given = byte_level_tokenizer()
    given.backend_tokenizer.enable_truncation(4)
    given.backend_tokenizer.enable_padding(length=200, pad_id=2, pad_token="<pad>")
    opened = open_in(save(tmp_path, given, "llama"))
    assert opened.decode(encode(opened, TEXT)) == TEXT


def test_tokenizer_whose_own_file_loses_text_is_refused_naming_what(tmp_path):
    lossy = Tokenizer(models.BPE(byte_level_tokenizer().get_vocab(), []))
    lossy.normalizer = normalizers.Replace("\n", " ")
    lossy.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    lossy.decoder = decoders.ByteLevel()
    save(tmp_path, PreTrainedTokenizerFast(tokenizer_object=lossy, eos_token="</s>"), "llama")
    with pytest.raises(StudentError) as caught:
        open_in(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: its tokenizer loses line breaks, indentation: it makes 'one   two\\r ' of "
        "'one\\n\\n\\ntwo\\r\\n'; it needs the tokenizer.json that the model was trained with"
    )


def save_vocabulary(folder: Path, kind: str) -> PreTrainedTokenizerFast:
    """The same tokenizer as vocab.json and merges.txt alone; gives it."""
    given = byte_level_tokenizer()
    save(folder, given, kind)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(merge) for merge in model["merges"]))
    (folder / "model.safetensors").touch()
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    return given


def test_vocab_json_and_merges_txt_are_opened_or_converted_by_one_command(tmp_path):
    given = save_vocabulary(tmp_path / "gpt2", "gpt2")
    assert find_fault(str(tmp_path / "gpt2")) is None
    assert encode(open_in(tmp_path / "gpt2"), TEXT) == encode(given, TEXT)
    save_vocabulary(tmp_path / "llama", "llama")  # whose tokenizers have no such files
    convert(tmp_path / "llama")
    assert encode(open_in(tmp_path / "llama"), TEXT) == encode(given, TEXT)


def test_sentencepiece_is_opened_where_it_is_understood_and_else_converted_by_one_command(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=written,
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(written.getvalue())
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    expected = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue()).encode(TEXT)
    # Without a name for its kind, transformers leaves out the space in front.
    assert encode(AutoTokenizer.from_pretrained(tmp_path), TEXT) != expected
    convert(tmp_path)
    assert encode(open_in(tmp_path), TEXT) == expected
    (tmp_path / "tokenizer.json").unlink()
    assert encode(open_in(tmp_path), TEXT) == expected  # now its kind has a name


@pytest.mark.parametrize("missing", ["sentencepiece", "google", "google.protobuf"])
def test_sentencepiece_without_its_packages_says_how_to_install_them(tmp_path, monkeypatch, missing):
    for file in ("config.json", "tokenizer.model", "model.safetensors"):
        (tmp_path / file).touch()
    monkeypatch.setattr(model_files, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(
        StudentError, match=r"to read its tokenizer.model, `pip install sentencepiece protobuf`"
    ):
        check_student(StudentConfig(model=str(tmp_path), template="plain"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("chat_template.jinja", "hi"),
        ("chat_template.json", '{"chat_template": "hi"}'),
        ("chat_template.json", '{"chat_template": {"tool_use": "no", "default": "hi"}}'),
        ("additional_chat_templates/default.jinja", "hi"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default", "template": "hi"}]}'),
    ],
)
def test_chat_template_is_found_wherever_it_stands(tmp_path, file, content):
    save(tmp_path, byte_level_tokenizer(), "llama")
    (tmp_path / "model.safetensors").touch()
    config = StudentConfig(model=str(tmp_path), template="chat")
    with pytest.raises(StudentError, match="has no chat template"):
        check_student(config)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    before = model_files.fingerprint(tmp_path)
    check_student(config)
    assert open_in(tmp_path).chat_template == "hi"
    (tmp_path / file).write_text(content.replace("hi", "ho"))
    assert model_files.fingerprint(tmp_path) != before


def test_chat_templates_without_a_default_are_none(tmp_path):
    save(tmp_path, byte_level_tokenizer(), "llama")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("no")
    assert open_in(tmp_path).chat_template is None
