"""What a model folder must hold to be opened, and how to tell its content from another's. Opens no model."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from reflectune.state.errors import ConfigError
from reflectune.state.records import content_hash

__all__ = ["PROCESSORS", "files_read", "find_fault", "fingerprint", "has_chat_template"]

_PICKLED = ("*.bin", "*.pt", "*.pth")
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
_SENTENCEPIECE = ("sentencepiece", "google", "google.protobuf")
_CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/default.jinja")

# Without these vLLM opens no model that also takes images or sound, even for text alone.
PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
# What transformers and vLLM read of a model's folder or an adapter's, beside weights and *.model files.
_READ = {
    "adapter_config.json", "added_tokens.json", "chat_template.jinja", "chat_template.json", "config.json",
    "default.jinja", "generation_config.json", "hf_quant_config.json", "merges.txt", "params.json",
    "quant_config.json", "quantize_config.json", "special_tokens_map.json", "tekken.json", "tokenizer.json",
    "tokenizer_config.json", "vocab.json", "vocab.txt",
}  # fmt: skip
_READ_SUFFIXES = (".safetensors", ".safetensors.index.json", ".model")

# Files up to this size are read whole, larger ones at so many places.
_WHOLE = 16 * 2**20
_BLOCKS = 128
_BLOCK = 32 * 2**10  # bytes


def find_fault(name: str) -> str | None:
    """What keeps a model folder from being opened; None where nothing does.

    A name that is neither a folder nor an absolute path is the hub's.
    """
    folder = Path(name)
    if not folder.is_dir():
        return f"{folder}: no such model folder" if folder.is_absolute() else None
    if not (folder / "config.json").is_file():
        return f"{folder}: not a usable model folder, it has no config.json"
    own = next((files for files in _TOKENIZERS if all((folder / file).is_file() for file in files)), None)
    if own is None:
        return f"{folder}: not a usable model folder, it has no tokenizer.json"
    if own == ("tokenizer.model",) and not all(map(find_spec, _SENTENCEPIECE)):
        return f"{folder}: to read its tokenizer.model, `pip install sentencepiece protobuf`"
    if not any(folder.glob("*.safetensors")):
        if any(any(folder.glob(kind)) for kind in _PICKLED):
            return f"{folder}: its weights are pickled, which can run code; convert them to safetensors"
        return f"{folder}: not a usable model folder, it has no *.safetensors weights"
    return None


def has_chat_template(folder: Path) -> bool:
    """Whether a model folder seems to come with a chat template."""
    settings = folder / "tokenizer_config.json"
    return any((folder / file).is_file() for file in _CHAT_TEMPLATES) or (
        settings.is_file() and b"chat_template" in settings.read_bytes()
    )


def files_read(folder: Path) -> list[Path]:
    """The files of a model's or adapter's folder that opening it for text reads, in their order."""
    return sorted(
        path
        for path in {*folder.iterdir(), *(folder / file for file in _CHAT_TEMPLATES)}
        if (path.name in _READ or path.name.endswith(_READ_SUFFIXES)) and path.is_file()
    )


def fingerprint(folder: Path) -> str:
    """Hash of a model's or adapter's files, 32 hex digits: another one means another content.

    Goes by names, sizes and content of the files that opening it reads: all of a file up to 16 MiB, of a
    larger one 128 blocks of 32 KiB, spread evenly. So 100 GB take a second. A change of a large file that
    keeps its size and lies between two blocks is not noticed, such as one of a single small matrix.
    """
    try:
        files = files_read(folder)
        return content_hash(*((path.name, path.stat().st_size, _hash_blocks(path)) for path in files))
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error}") from error


def _hash_blocks(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for number in range(_BLOCKS):
            file.seek((size - _BLOCK) * number // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
        return digest.hexdigest()
