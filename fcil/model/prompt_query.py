"""Gives prompt methods what their forward passes share: the query of an image, and prompts that are chosen by it.

All of it is done image by image: no prediction depends on an image's neighbours in the batch.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fcil.method.local import pooled_features
from fcil.model.prompt_forward import embed

__all__ = ["cosines", "mean_of_prompts", "query"]


@torch.no_grad()
def query(network: Any, images: Tensor) -> Tensor:
    """Compute q(x) of images, (n, 3, h, w) -> (n, width) float32: the frozen network's own feature, no gradient.

    In a ViT with a class token that is the token's output after the last norm.
    """
    return pooled_features(network, images).float()


def cosines(queries: Tensor, keys: Tensor) -> Tensor:
    """Cosines of every query with every key, (n, width) and (m, width) -> (n, m)."""
    return F.cosine_similarity(queries[:, None], keys[None], dim=2)


def mean_of_prompts(network: Any, images: Tensor, prompts: Tensor) -> Tensor:
    """Mean output of each image's prompts, which stand between prefix and patches: the feature of L2P, (n, width).

    Args:
        prompts: of every image, (n, tokens, width). They get the position of the class token, where there is one.
    """
    prefix, positions = network.num_prefix_tokens, network.pos_embed
    if positions is not None and network.cls_token is not None and not network.no_embed_class:
        prompts = prompts + positions[:, :1]
    tokens = embed(network, images)
    tokens = torch.cat([tokens[:, :prefix], prompts, tokens[:, prefix:]], 1)
    for block in network.blocks:
        tokens = block(tokens)
    outputs = network.norm(tokens)[:, prefix : prefix + prompts.shape[1]]
    mean: Tensor = network.fc_norm(outputs.mean(1))
    return mean
