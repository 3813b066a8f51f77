"""`[model]`: settings of the frozen backbone. Free of torch, so that settings are checked before it is imported."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fcil.method.phases import HeadStart
from fcil.options import Option

__all__ = ["INCLUDED", "TINY", "Model", "Precision"]

TINY = "fcil_vit_tiny"
"""Name of the embedded backbone."""
INCLUDED = "embedded"
"""The weights that ship with it."""
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """`[model]`: the frozen backbone, its weights, image size and number type, and how head rows begin."""

    backbone: Annotated[str, Option(f'name of a timm vision transformer, or "{TINY}", the embedded one')] = TINY
    weights: Annotated[
        str,
        Option('"embedded", a .safetensors, .pth or .npz file, "timm" (downloads), or "random" (to test and time)'),
    ] = INCLUDED
    image_size: Annotated[
        int, Option("side of the input; position embeddings are resampled to it", "pixels", low=4)
    ] = 32
    precision: Annotated[
        Precision,
        Option('of forward and backward passes; "auto" is what the device has; sums and merges stay in float64'),
    ] = "fp32"
    head_start: Annotated[
        HeadStart, Option('start of new classes\' head rows: "linear" as torch\'s Linear; "timm" N(0, 0.02), zero bias')
    ] = "linear"
