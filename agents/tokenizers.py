"""Opens tokenizers, and sees to it that they read texts as their files say and lose nothing of them.

Nothing here knows models, pairs or prompts.
"""

import json
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import cached_file

from reflectune.agents.models import opening, source
from reflectune.state.config import StudentConfig
from reflectune.state.errors import StudentError

__all__ = ["find_file", "open_tokenizer"]

# Texts that a tokenizer must give back.
_PROBES = {
    "spaces": "  Two  spaces, one behind ",
    "line breaks": "one\n\n\ntwo\r\n",
    "indentation": "if x:\n\tif y:\n\t    z = 1",
    "accents": "Café, naïve, straße",
    "Chinese": "你好，世界。",
    "emoji": "🙂👩‍💻",
}


def open_tokenizer(config: StudentConfig) -> Any:
    """The student's fast tokenizer, which reads as its tokenizer.json says; with the chat template, if any.

    A StudentError where there is none, or where a text does not survive encoding and decoding. A space more
    or less at its very beginning does not count.
    """
    with opening(config, "tokenizer"):
        tokenizer = _open(config)
        tokenizer.chat_template = _find_chat_template(config, tokenizer)
    if not tokenizer.is_fast:
        raise StudentError(f"{config.model}: its tokenizer is a slow one; scoring needs a tokenizer.json")
    tokenizer.clean_up_tokenization_spaces = False  # which takes spaces out of what is decoded
    decoded = {text: tokenizer.decode(_encode(tokenizer, text)) for text in _PROBES.values()}
    lost = [kind for kind, text in _PROBES.items() if not _is_same(text, decoded[text])]
    if lost:
        text = _PROBES[lost[0]]
        raise StudentError(
            f"{config.model}: its tokenizer loses {', '.join(lost)}: it makes {decoded[text]!r} of {text!r}; "
            "it needs the tokenizer.json that the model was trained with"
        )
    return tokenizer


def find_file(config: StudentConfig, name: str) -> str | None:
    """Path of a file of the folder, or of the hub's copy on this machine; None where it has no such file."""
    flags = ("gated_repo", "missing_entries", "connection_errors")
    quiet = {f"_raise_exceptions_for_{flag}": False for flag in flags}
    path: str | None = cached_file(config.model, name, revision=config.revision, **quiet)
    return path


def _open(config: StudentConfig) -> Any:
    """Transformers' tokenizer, or the file's own where that one reads another way than the file."""
    path = find_file(config, "tokenizer.json")
    if path is None:
        return _convert(config)
    tokenizer = AutoTokenizer.from_pretrained(config.model, **source(config))
    given = Tokenizer.from_file(path)
    given.no_truncation()
    given.no_padding()
    if all(_encode(tokenizer, x) == given.encode(x, add_special_tokens=False).ids for x in _PROBES.values()):
        return tokenizer
    # Transformers builds it anew by the class that the folder names, which may be of another kind.
    return PreTrainedTokenizerFast.from_pretrained(config.model, **source(config))


def _convert(config: StudentConfig) -> Any:
    """What transformers makes of an older format. A ValueError where it takes it for another kind."""
    path = find_file(config, "tokenizer.model")
    kind, cause = "LlamaTokenizer" if path else "GPT2Tokenizer", None
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model, **source(config))
        if path is None or _reads_as_sentencepiece(tokenizer, path):
            return tokenizer
    except ValueError as error:
        cause = error
    command = f"T.from_pretrained({config.model!r}).save_pretrained({config.model!r})"
    raise ValueError(
        "transformers cannot tell of what kind it is; make its tokenizer.json by the class of its kind, "
        f'such as `python -c "from transformers import {kind} as T; {command}"`'
    ) from cause


def _reads_as_sentencepiece(tokenizer: Any, path: str) -> bool:
    from sentencepiece import SentencePieceProcessor

    given = SentencePieceProcessor(model_file=path)
    # Of a text that begins with spaces transformers leaves out the first.
    texts = [text.lstrip() for text in _PROBES.values()]
    ids: list[list[int]] = given.encode(texts)
    return [_encode(tokenizer, text) for text in texts] == ids


def _find_chat_template(config: StudentConfig, tokenizer: Any) -> str | None:
    """The default one of several; that of chat_template.json where the tokenizer comes with none."""
    templates = tokenizer.chat_template
    if not templates and (path := find_file(config, "chat_template.json")):
        with open(path, encoding="utf-8") as file:
            templates = json.load(file)["chat_template"]
    return templates.get("default") if isinstance(templates, dict) else templates


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _is_same(text: str, decoded: str) -> bool:
    return decoded in (text, f" {text}", text.removeprefix(" "))
