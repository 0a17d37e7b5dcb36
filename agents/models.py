"""Opens models and adapters from disk or hub.

The only place that knows devices, number formats, threads and PEFT folders. Nothing here knows pairs,
prompts or scores.
"""

import atexit
import gc
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from reflectune.agents.hardware import measure_threads, prefers_bfloat16, visible_cpus
from reflectune.agents.memory import alike_when_exhausted
from reflectune.agents.student.attention import settle_attention
from reflectune.agents.student.linear import multiply_by_onednn
from reflectune.state.config import StudentConfig
from reflectune.state.errors import AdapterError, StudentError

__all__ = [
    "attach_adapter", "check_four_bit", "check_match", "count_embeddings", "four_bit", "not_finite",
    "open_model", "opening", "own_dtype", "resolve_student", "set_threads", "source",
]  # fmt: skip

# Bars and warnings of the library would break into our own display; what goes wrong is raised.
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
# The libraries stay to the end: freeing a model's memory need not walk their objects, which takes longer than
# the freeing. At the end they are looked through after all, for those that complain of what is left.
gc.freeze()
atexit.register(gc.unfreeze)


def resolve_student(config: StudentConfig) -> StudentConfig:
    """The same student with its CPU threads and number format settled, by measuring where it leaves them.

    Measuring gives other answers at other times: a run does this once and keeps them. A number format
    stays "auto" only off the CPU, for a model whose config.json does not name its own.
    """
    if config.threads is None:
        config = config.model_copy(update={"threads": measure_threads()})
    return config.model_copy(update={"dtype": _dtype(config)})


def set_threads(threads: int | None) -> None:
    """Set torch's CPU threads. None takes half of the visible CPUs, but two where there are two."""
    visible = visible_cpus()
    torch.set_num_threads(threads or max(visible // 2, min(visible, 2)))


def open_model(config: StudentConfig) -> Any:
    """The student's base model on its device, in eval mode. Remote code is never run, pickle never read.

    With `load_in_4bit` its linear layers but the head hold NF4 weights and compute in `dtype`. Weights go
    straight to the device. What cannot be opened is a StudentError.
    """
    device, dtype, how = _device(config.device), _dtype(config), source(config)
    if config.load_in_4bit:
        check_four_bit(config)
        how |= {"quantization_config": four_bit(dtype)}
    if config.load_in_4bit or device.type != "cpu":
        how |= {"device_map": {"": device}}
    try:
        with opening(config, "model"), alike_when_exhausted():
            # Safetensors alone: pickled weights can run code.
            model, loading = AutoModelForCausalLM.from_pretrained(
                config.model, dtype=dtype, use_safetensors=True, output_loading_info=True, **how
            )
    except torch.OutOfMemoryError as error:
        raise StudentError(
            f"{config.model}: does not fit into the memory of {device}; end what else uses it"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise StudentError(f"{config.model}: the weights lack {len(missing)} tensors, such as {missing[0]}")
    model.eval()
    settle_attention(model)
    if device.type == "cpu":
        multiply_by_onednn(model)
    return model


def check_four_bit(config: StudentConfig) -> None:
    """Raise a StudentError for 4-bit weights without bitsandbytes, or on a device that it does not know."""
    device = _device(config.device)
    if device.type not in ("cuda", "cpu"):
        raise StudentError(
            f"student.load_in_4bit needs a CUDA device or a CPU, and the student is on {device}"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise StudentError("student.load_in_4bit needs bitsandbytes; `pip install bitsandbytes`")


def four_bit(dtype: str) -> BitsAndBytesConfig:
    """What 4-bit weights are, computed with in a number format."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=None if dtype == "auto" else dtype,
    )


def count_embeddings(config: StudentConfig) -> int:
    """How many tokens a model can embed, by its config.json alone."""
    return int(_read_config(config).get_text_config(decoder=True).vocab_size)


def check_adapters_fit_vllm(config: StudentConfig) -> None:
    """Raise a StudentError for a model whose adapters vLLM would not find the weights of, and pass over.

    It opens the class that config.json names. transformers may open another for text alone, as of Qwen3.5,
    whose weights have other names.
    """
    settings = _read_config(config)
    opened = AutoModelForCausalLM._model_mapping.get(type(settings), None)
    named = settings.architectures or []
    if opened is not None and named and opened.__name__.lower() not in map(str.lower, named):
        raise StudentError(
            f"{config.model}: vLLM opens it as {named[0]}, where adapters are trained on {opened.__name__}: "
            "it would answer without them; take teacher.engine = transformers"
        )


def own_dtype(config: StudentConfig) -> str:
    """The number format that a model's config.json names, auto where it names none that students have."""
    names = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
    return names.get(_read_config(config).dtype, "auto")


def check_match(model: Any, tokenizer: Any) -> None:
    """Raise a StudentError for a tokenizer with more tokens than the model has embeddings.

    Of added tokens only BOS and EOS count: some models come with a padding token that they cannot embed.
    """
    tokens, known = tokenizer.vocab_size, model.get_input_embeddings().num_embeddings
    if tokens > known:
        what = f"another model's tokenizer: {tokens} tokens, where the model knows {known}"
        raise StudentError(f"{model.name_or_path}: {what}")
    for name in ("BOS", "EOS"):
        token = getattr(tokenizer, f"{name.lower()}_token_id")
        if token is not None and token >= known:
            what = f"its tokenizer's {name} is token {token}, and the model knows 0 to {known - 1}"
            raise StudentError(f"{model.name_or_path}: {what}")


def attach_adapter(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """A PEFT model: `model` with the LoRA adapter of a folder.

    An AdapterError where it is missing, unreadable, of another model, or has weights that are not finite.
    """
    from peft import PeftModel, get_peft_model_state_dict  # half a second that a base alone does not need

    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as tensors:
            given = set(tensors.keys())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about missing keys: checked below, and refused
            adapted = PeftModel.from_pretrained(
                model, str(folder), is_trainable=trainable, torch_device=str(model.device)
            )
    except FileNotFoundError:
        raise AdapterError(f"{folder}: no adapter here; want adapter_model.safetensors") from None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise AdapterError(f"{folder}: not a readable LoRA adapter: {_first_line(error)}") from error
    except torch.OutOfMemoryError as error:
        raise StudentError(f"{folder}: no memory on {model.device} for this adapter") from error
    except RuntimeError as error:
        raise AdapterError(f"{folder}: an adapter of another model: {_first_line(error)}") from error
    weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if apart := given ^ set(weights):
        what = f"{len(apart)} of its weights have no counterpart"
        raise AdapterError(f"{folder}: an adapter of another model: {what}")
    if broken := not_finite(weights):
        what = f"{len(broken)} of its {len(weights)} weights are not finite, such as {broken[0]}"
        raise AdapterError(f"{folder}: {what}; train it anew")
    return adapted


def not_finite(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return sorted(name for name, values in weights.items() if not bool(values.isfinite().all()))


def source(config: StudentConfig) -> dict[str, Any]:
    """Arguments of every `from_pretrained` of a student's."""
    return {"revision": config.revision, "trust_remote_code": False}


@contextmanager
def opening(config: StudentConfig, what: str) -> Iterator[None]:
    """Make a StudentError of whatever foreign files can cause."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        kind = "" if Path(config.model).is_dir() else " (no folder here, so taken for a hub name)"
        message = f"{config.model}{kind}: the {what} could not be opened: {_first_line(error)}"
        raise StudentError(message) from error


def _read_config(config: StudentConfig) -> Any:
    with opening(config, "model"):
        return AutoConfig.from_pretrained(config.model, **source(config))


def _dtype(config: StudentConfig) -> str:
    """For "auto" the model's own number format, but bfloat16 for float32 on a GPU that has it.

    On a CPU float32, unless its own is bfloat16 and faster there.
    """
    if config.dtype != "auto":
        return config.dtype
    own, device = own_dtype(config), _device(config.device)
    if device.type == "cpu":
        # bfloat16 would be coarser than a float16 model's own weights.
        return "bfloat16" if own == "bfloat16" and prefers_bfloat16() else "float32"
    if own == "float32" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return own


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise StudentError(f"student.device = {name!r} is not there: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
