"""What an open model is made of, by its settings: its base, its context, its layers."""

from typing import Any

from transformers import DynamicCache

__all__ = ["base_model", "cache_layers", "context_length", "steady_length", "text_config"]

# Rotary embeddings that turn a token the further, the longer its text is.
_ELASTIC = ("dynamic", "longrope")


def base_model(model: Any) -> Any:
    """A PEFT model's base, adapters and all; another model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def text_config(model: Any) -> Any:
    """The settings of a model's text decoder, which in a multimodal model are a part of its own."""
    return model.config.get_text_config(decoder=True)


def context_length(model: Any) -> int | None:
    """Most positions the model was made for; None where it does not say."""
    length = getattr(text_config(model), "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def steady_length(model: Any) -> int | None:
    """Most tokens of a text up to which no token's states depend on its length; None where none ever do."""
    config = text_config(model)
    rotary = getattr(config, "rope_parameters", None) or {}
    kinds = [rotary] if "rope_type" in rotary else rotary.values()  # one for all layers, or one a layer type
    return min(
        (
            kind.get("original_max_position_embeddings", config.max_position_embeddings)
            for kind in kinds
            if isinstance(kind, dict) and kind["rope_type"] in _ELASTIC
        ),
        default=None,
    )


def cache_layers(model: Any) -> set[type]:
    """The kinds of transformers' cache layers that the model's layers keep their states in."""
    return {type(layer) for layer in DynamicCache(config=text_config(model)).layers}
