"""Linear layers of float32 models on a CPU, multiplied by oneDNN instead of torch's own choice, MKL.

MKL keeps to AVX2 on processors that are not Intel's: there oneDNN with AVX-512 multiplies more than twice as
fast (270 against 120 GFLOP/s on one core of an AMD EPYC of family 26). The sums differ by rounding only.
"""

from types import MethodType
from typing import Any

import torch

__all__ = ["multiply_by_onednn"]

# Fewer rows at once, as in writing one token after another, are quicker without oneDNN's preparations.
_FEWEST_ROWS = 8


def multiply_by_onednn(model: Any) -> None:
    """Have a model's frozen float32 linear layers on a CPU multiply by oneDNN, where this torch has it."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return
    for module in model.modules():
        if type(module) is torch.nn.Linear and module.weight.dtype == torch.float32:
            module.forward = MethodType(_forward, module)


def _forward(layer: torch.nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    """A linear layer: inputs (..., I) to (..., O)."""
    weight, bias = layer.weight, layer.bias
    trained = torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
    few = inputs.numel() < _FEWEST_ROWS * inputs.shape[-1]
    if trained or few or inputs.dtype != torch.float32 or weight.device.type != "cpu":
        return torch.nn.functional.linear(inputs, weight, bias)
    if torch.is_grad_enabled() and inputs.requires_grad:
        return _FrozenLinear.apply(inputs, weight, bias)
    return _multiply(inputs, weight, bias)


class _FrozenLinear(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped
    """The product with a gradient for its inputs alone: the operator has none of its own."""

    @staticmethod
    def forward(
        context: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Inputs (..., I), weight (O, I), bias (O,) to (..., O)."""
        context.save_for_backward(weight)
        return _multiply(inputs, weight, bias)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Gradient (..., O) to that of the inputs (..., I)."""
        (weight,) = context.saved_tensors
        return _multiply(gradient, weight.T, None), None, None


def _multiply(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
