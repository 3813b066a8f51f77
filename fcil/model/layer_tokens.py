"""Tokens of several layers of a timm ViT, pooled over the cells of a grid, in one forward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fcil.method import Tokens

__all__ = ["has_class_token", "layer_tokens"]


def has_class_token(network: Any) -> bool:
    """Tell whether the network's first token is a class token; registers alone are none."""
    return getattr(network, "cls_token", None) is not None


def layer_tokens(network: Any, images: Tensor, tokens: Tokens) -> Tensor:
    """Compute features of images, (n, 3, h, w) -> (n, width): the named tokens of the named layers, side by side.

    Every layer's output goes through the network's last norm, as that of the last layer does; a norm that the network
    has behind its pooling stands behind ours. Blocks after the last named layer are not run. A cell that does not
    divide the patches evenly shares those on its border with its neighbour (`torch.nn.AdaptiveAvgPool2d`).
    """
    layers = sorted({layer for layer, _ in tokens.blocks})
    prefix = bool(network.num_prefix_tokens)  # asked for where there is none, some networks fail
    outputs = network.forward_intermediates(
        images, [layer - 1 for layer in layers], return_prefix_tokens=prefix, norm=True, stop_early=True,
        output_fmt="NCHW", intermediates_only=True,
    )  # fmt: skip
    pairs = dict(zip(layers, outputs, strict=True))
    after_pooling = getattr(network, "fc_norm", None) or torch.nn.Identity()
    cells = [after_pooling(_cells(pairs[layer], side)) for layer, side in tokens.blocks]
    return torch.cat([block.flatten(1) for block in cells], 1)


def _cells(output: Any, side: int) -> Tensor:
    """Pool one layer's output to (n, cells, width): the class token for 0, else the means of side x side cells."""
    patches, prefix = output if isinstance(output, tuple) else (output, None)
    if side == 0:
        return prefix[:, :1]  # type: ignore[no-any-return]
    pooled = patches if patches.shape[-2:] == (side, side) else F.adaptive_avg_pool2d(patches, side)
    return pooled.flatten(2).transpose(1, 2)
