"""Writes a student as one model: its base with the LoRA adapter added to the weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from reflectune.agents.generation import stop_ids
from reflectune.agents.model_files import PROCESSORS
from reflectune.agents.models import (
    attach_adapter,
    check_four_bit,
    check_match,
    four_bit,
    open_model,
    own_dtype,
)
from reflectune.agents.student.templates import check_student, open_template
from reflectune.agents.tokenizers import find_file, open_tokenizer
from reflectune.state.config import StudentConfig
from reflectune.state.data.writing import refuse_taken

__all__ = ["merge_student"]

_SETTINGS = "generation_config.json"
_SHARD = "5GB"  # most bytes of one file of weights


def merge_student(config: StudentConfig, adapter: Path, out: Path, shard: str = _SHARD) -> str:
    """Write base and adapter as one model into a folder, which is made; returns its number format.

    Each weight is W + s B A, added up in float32 and rounded once, to the number format of the base's
    files. Of a base with `load_in_4bit` W is what it was trained with: 4-bit weights, written out in that
    format. The folder has safetensors of at most `shard` each, and the base's tokenizer, chat template,
    processors and settings of generation, with what ended an answer in training as an end. It is there
    whole or not at all. Works on the CPU, in as much memory as the base needs.

    Raises:
        AdapterError: the adapter cannot be read, or is of another model.
        ConfigError: there is something at `out`.
        StudentError: the base cannot be opened.
    """
    refuse_taken(out)
    check_student(config)
    here = config.model_copy(update={"device": "cpu"})
    tokenizer = open_tokenizer(here)
    model = _open_base(here)
    check_match(model, tokenizer)
    stops = stop_ids(model, tokenizer, open_template(config, tokenizer).end_id(tokenizer))
    merged = attach_adapter(model, adapter).merge_and_unload()
    part = out.with_name(f".{out.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    try:
        if settings := find_file(config, _SETTINGS):
            merged.generation_config = GenerationConfig()  # many are read that transformers would not write
        merged.save_pretrained(part, max_shard_size=shard)
        tokenizer.save_pretrained(part)
        for path in filter(None, (find_file(config, name) for name in PROCESSORS)):
            shutil.copy(path, part)
        generation = json.loads(Path(settings or part / _SETTINGS).read_bytes()) | {"eos_token_id": stops}
        (part / _SETTINGS).write_text(json.dumps(generation, indent=2) + "\n")
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return str(merged.dtype).removeprefix("torch.")


def _open_base(config: StudentConfig) -> Any:
    """The base with whole weights, in the number format of its files."""
    own = own_dtype(config)
    if not config.load_in_4bit:
        return open_model(config.model_copy(update={"dtype": own}))
    check_four_bit(config)
    model = open_model(config.model_copy(update={"load_in_4bit": False}))
    _round_to_four_bit(model)
    return model if own == "auto" else model.to(getattr(torch, own))


def _round_to_four_bit(model: Any) -> None:
    """Give the weights the values that they have in 4 bits.

    A model that is opened in 4 bits would not do: on some CPUs bitsandbytes keeps its weights in another
    order, which it forgets when it writes them out.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    settings = four_bit("auto")
    whole = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    for name, layer in model.named_modules():
        if type(layer) in (torch.nn.Linear, Conv1D) and should_convert_module(name, whole):
            is_turned = isinstance(layer, Conv1D)
            weight = layer.weight.data.T if is_turned else layer.weight.data
            rounded = dequantize_4bit(
                *quantize_4bit(
                    weight.contiguous(),
                    quant_type=settings.bnb_4bit_quant_type,
                    compress_statistics=settings.bnb_4bit_use_double_quant,
                )
            )
            layer.weight.data = rounded.T.contiguous() if is_turned else rounded
