"""The forward pass of a timm ViT with prompts, put together from the network's own pieces."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from fcil.errors import ConfigError

__all__ = ["PromptSlot", "add_slots", "embed", "prompted_features", "refusal", "run_blocks"]

PIECES = ("patch_embed", "_pos_embed", "norm_pre", "blocks", "norm", "forward_head", "num_prefix_tokens")


class PromptSlot(nn.Module):
    """Holds the prompts of one block."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: Tensor | None = None  # (length, width)


def embed(network: Any, images: Tensor) -> Tensor:
    """Embed images, (n, 3, h, w) -> (n, tokens, width): prefix and patches, with positions, for the first block."""
    tokens: Tensor = network.norm_pre(network._pos_embed(network.patch_embed(images)))
    return tokens


def run_blocks(network: Any, tokens: Tensor, prompts: Sequence[Tensor | None] = ()) -> Tensor:
    """Run tokens, (n, tokens, width), through all blocks and the last norm; outputs of prompts are left out.

    Args:
        prompts: for block 0, 1, ..., (length, width) or one set for each image, (n, length, width). They take the place
            of those that the block before has put out; with None, and after the last, these go on.
    """
    prefix, length = network.num_prefix_tokens, 0
    for block, prompt in zip_longest(network.blocks, prompts):
        if prompt is not None:
            batch = prompt.expand(len(tokens), -1, -1)
            tokens = torch.cat([tokens[:, :prefix], batch, tokens[:, prefix + length :]], 1)
            length = batch.shape[1]
        tokens = block(tokens)
    # left out before pooling: a mean over tokens is one over the image's own patches, whatever the backbone pools
    tokens = network.norm(torch.cat([tokens[:, :prefix], tokens[:, prefix + length :]], 1))
    return tokens


def prompted_features(network: Any, images: Tensor) -> Tensor:
    """Features of images, (n, 3, h, w) -> (n, width), with the prompts in the slots, or the backbone's own."""
    prompts = [slot.tokens for slot in network.prompt_slots]
    features: Tensor = network.forward_head(run_blocks(network, embed(network, images), prompts), pre_logits=True)
    return features


def add_slots(network: Any, count: int) -> list[PromptSlot]:
    """Add a slot before each of the first `count` blocks, as `network.prompt_slots`.

    Raises:
        ConfigError: `refusal` has a reason, or without prompts the pieces do not do what the network does.
    """
    reason = refusal(network)
    if not reason and not _pieces_are_the_network(network):
        reason = f"{type(network).__name__} cannot be prompted: its own forward pass is another"
    if reason:
        raise ConfigError(f"model.backbone: {reason}; name a plain ViT")
    slots = [PromptSlot() for _ in range(count)]
    network.prompt_slots = nn.ModuleList(slots)
    return slots


def refusal(network: Any) -> str:
    """Say why no tokens can be added to a network's own, without running it; empty where they can.

    A piece of the forward pass is missing, or the blocks take positions beside the tokens (rotary, relative), and a
    prompt has none.
    """
    missing = [piece for piece in PIECES if not hasattr(network, piece)]
    if not missing and not hasattr(network, "rope"):
        return ""
    why = f"it has no {', '.join(missing)}" if missing else "its blocks take more than the tokens"
    return f"{type(network).__name__} cannot be prompted: {why}"


@torch.no_grad()
def _pieces_are_the_network(network: Any) -> bool:
    """Check whether an image, a ramp of colours, goes through the pieces as it goes through the network."""
    weight = next(network.parameters())
    height, width = network.patch_embed.img_size
    ramp = torch.linspace(-1, 1, 3 * height * width, device=weight.device).view(1, 3, height, width).to(weight.dtype)
    return torch.allclose(run_blocks(network, embed(network, ramp)), network.forward_features(ramp), 1e-3, 1e-4)
