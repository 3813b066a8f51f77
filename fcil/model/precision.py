"""Choose the number type of passes through the backbone, and scale gradients as float16 needs it."""

from typing import Literal

import torch
from torch import Tensor

from fcil.model.settings import Precision

__all__ = ["DTYPES", "Precision", "ScaledSteps", "bf16_in_hardware", "resolve"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_VOLTA = 7
"""Compute capability from which GPUs multiply float16 faster than float32."""


def bf16_in_hardware() -> bool:
    """Tell whether this processor multiplies bfloat16 itself (AVX512-BF16 or AMX), rather than by conversion."""
    cpu = torch.cpu
    if hasattr(cpu, "get_capabilities"):
        capabilities = cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())  # before torch had a public way


def resolve(precision: Precision, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """Resolve "auto" for a device: bf16 where it is in hardware, else fp16 on a GPU that is fast at it, else fp32."""
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "bf16" if bf16_in_hardware() else "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp16" if torch.cuda.get_device_capability(device)[0] >= _VOLTA else "fp32"


class ScaledSteps:
    """Take an optimiser's steps; in float16 the loss is scaled so that small gradients do not vanish.

    A step whose gradients overflow is skipped, and the scale is halved. Each instance starts with the initial scale.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, device: torch.device, precision: str, unscale: bool = False
    ) -> None:
        self.optimizer = optimizer
        self.unscale = unscale
        """Gradients are left at their own scale after a step, for those who look at them."""
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.skipped = 0
        """The number of steps that were skipped."""

    def step(self, loss: Tensor) -> bool:
        """Take one step down the gradient of `loss`; returns False if it was skipped."""
        for group in self.optimizer.param_groups:  # as zero_grad does, which costs as much as the step of a small model
            for leaf in group["params"]:
                leaf.grad = None
        scale = self.scaler.get_scale()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.unscale:
            self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        skipped = self.scaler.get_scale() < scale
        self.skipped += skipped
        return not skipped

    @property
    def metrics(self) -> dict[str, float]:
        """The number of skipped steps, for the records; empty where none can be skipped."""
        return {"skipped_steps": float(self.skipped)} if self.scaler.is_enabled() else {}
