"""Counts what reaches a model: tokens, rows of logits, and the floating-point operations they take.

It listens at the embedding and at the head, so it counts the same for every way of calling a model. The best
rate to hold figures against is what torch itself reaches here at the same time, not a data sheet's.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from reflectune.agents.student.linear import multiply_by_onednn

__all__ = ["SPEED_HEADER", "Meter", "matmul_rate", "random_llama"]

# Square sizes to try: which one is fastest differs between machines and number formats.
_SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}

SPEED_HEADER = "tokens/s | matmul | of peak"


def random_llama(shape: Mapping[str, Any], dtype: torch.dtype, device: str = "cpu") -> Any:
    """A Llama of a shape with random weights, which are drawn on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=dtype).eval()


class Meter:
    """What has gone through the models it listens to, which are alike.

    FLOP: 2 x parameters in matrices x tokens for the layers, 2 x width x vocabulary a row of logits for
    the head. Attention is at most 4 x width of attention x T^2 a layer and forward pass of T tokens: less
    where a kernel leaves out what a mask hides. Norms, activations and softmax are not counted.
    """

    def __init__(self) -> None:
        self.listening = True
        self.passes = 0
        self.tokens = 0
        self.logit_rows = 0
        self.most_logit_bytes = 0  # of one call of the head
        self.matmul_flop = 0.0
        self.attention_flop = 0.0  # at most
        self._lock = threading.Lock()
        self._flop_of_token = self._flop_of_row = self._flop_of_square = 0.0

    def attach(self, model: Any) -> Any:
        """Listen to a model, and give it back."""
        head, config = model.get_output_embeddings(), model.config
        self._flop_of_row = 2.0 * head.weight.numel()
        self._flop_of_token = 2.0 * sum(
            module.weight.numel()
            for module in model.modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        )
        heads = config.num_attention_heads
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        self._flop_of_square = 4.0 * config.num_hidden_layers * width
        model.get_input_embeddings().register_forward_pre_hook(self._count_tokens)
        head.register_forward_hook(self._count_logits)
        return model

    def speed(self, seconds: float, peak: float, unit: str = "GFLOP/s") -> str:
        """Cells of a table: tokens a second, the matmul rate, and its share of the best one (FLOP/s)."""
        rate = self.matmul_flop / seconds
        scale = {"GFLOP/s": 1e9, "TFLOP/s": 1e12}[unit]
        return f"{self.tokens / seconds:,.0f} | {rate / scale:.0f} {unit} | {rate / peak:.0%}"

    def _count_tokens(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if not self.listening:
            return
        with self._lock:  # rows pass side by side
            batch, length = inputs[0].shape  # (B, T)
            self.passes += 1
            self.tokens += batch * length
            self.matmul_flop += self._flop_of_token * batch * length
            self.attention_flop += self._flop_of_square * batch * length**2

    def _count_logits(self, module: Any, inputs: Any, logits: torch.Tensor) -> None:
        if not self.listening:
            return
        with self._lock:
            rows = logits.numel() // logits.shape[-1]
            self.logit_rows += rows
            self.matmul_flop += self._flop_of_row * rows
            self.most_logit_bytes = max(self.most_logit_bytes, logits.numel() * logits.element_size())


def matmul_rate(dtype: torch.dtype, device: str = "cpu", seconds: float = 1.0) -> float:
    """The best matmul rate seen, FLOP/s: 2 n^3 over the time of one product of square matrices.

    Each size is tried for some seconds. On a CPU in float32 the product is torch's own or oneDNN's, whichever
    is faster.
    """
    return max(
        _rate(product, size, device, seconds)
        for size in _SIZES[device]
        for product in _products(size, dtype, device)
    )


def _products(size: int, dtype: torch.dtype, device: str) -> Iterator[Callable[[], object]]:
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    out = torch.empty_like(left)
    yield lambda: torch.mm(left, right, out=out)
    if device == "cpu" and dtype == torch.float32:
        layer = torch.nn.Linear(size, size, bias=False).requires_grad_(False)
        multiply_by_onednn(layer)
        yield lambda: layer(left)


def _rate(product: Callable[[], object], size: int, device: str, seconds: float) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    product()  # kernels are chosen and compiled at the first call
    best = float("inf")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        wait()
        began = time.perf_counter()
        product()
        wait()
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best
