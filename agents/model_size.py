"""How large a model is, by its config.json: no weights are opened."""

from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from reflectune.agents.architecture import text_config
from reflectune.agents.generation import cache_bytes
from reflectune.agents.models import opening, source
from reflectune.state.config import StudentConfig

__all__ = ["ModelSize", "measure_size"]

_NF4_BYTES = 0.57  # of a weight in 4 bits, with its scales
_FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a model takes."""

    parameters: int
    weight_bytes: int  # in the number format it is opened in
    cache_bytes: int  # keys and values of one token in a 16-bit cache


def measure_size(config: StudentConfig) -> ModelSize:
    """The size of the model that a student's config names, on a GPU, where "auto" is a 16-bit format.

    With `load_in_4bit` all weights but embeddings and head are held in 4 bits.
    """
    with opening(config, "model"), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config.model, **source(config)))
    parameters = sum(weight.numel() for weight in model.parameters())
    each = _FLOAT_BYTES[config.dtype]
    packed = 0
    if config.load_in_4bit:
        ends = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings())}
        packed = sum(it.numel() for it in model.parameters() if it.ndim == 2 and id(it) not in ends)
    return ModelSize(
        parameters=parameters,
        weight_bytes=round(packed * _NF4_BYTES + (parameters - packed) * each),
        cache_bytes=cache_bytes(text_config(model), 2),
    )
