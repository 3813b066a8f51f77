"""VPT and the ViT itself, literally: one image, one token and one head at a time, from the network's weights alone.

Nothing here is imported by the product; of timm and of the product only arrays by name are used. Weights are those of a
timm `VisionTransformer`'s state dict in float64; layer norms have timm's epsilon of 1e-6.
"""

import math

import torch

EPSILON = 1e-6


def norm(x, w, name):
    """Layer norm of one token, (width,)."""
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    return (x - mean) / torch.sqrt(variance + EPSILON) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x, w, name):
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def gelu(x):
    return torch.stack([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])


def attention(tokens, w, block, heads):
    """softmax(q k^T / sqrt(head width)) v, head by head and token by token."""
    width = len(tokens[0]) // heads
    qkv = [linear(x, w, f"blocks.{block}.attn.qkv").view(3, heads, width) for x in tokens]
    out = []
    for at in range(len(tokens)):
        mixed = []
        for h in range(heads):
            weights = torch.stack([torch.exp(qkv[at][0, h] @ other[1, h] / math.sqrt(width)) for other in qkv])
            mixed.append(sum(p * other[2, h] for p, other in zip(weights / weights.sum(), qkv, strict=True)))
        out.append(linear(torch.cat(mixed), w, f"blocks.{block}.attn.proj"))
    return out


def layer(tokens, w, block, heads):
    """L_i: attention and perceptron, each beside its input."""
    normed = [norm(x, w, f"blocks.{block}.norm1") for x in tokens]
    tokens = [x + a for x, a in zip(tokens, attention(normed, w, block, heads), strict=True)]
    out = []
    for x in tokens:
        hidden = gelu(linear(norm(x, w, f"blocks.{block}.norm2"), w, f"blocks.{block}.mlp.fc1"))
        out.append(x + linear(hidden, w, f"blocks.{block}.mlp.fc2"))
    return out


def embeddings(image, w, patch):
    """x_0 and E_0: the class token and the image's patches, row by row, each with its position added."""
    kernel, patches = w["patch_embed.proj.weight"], []
    for top in range(0, image.shape[1], patch):
        for left in range(0, image.shape[2], patch):
            piece = image[:, top : top + patch, left : left + patch]
            patches.append((kernel * piece).sum((1, 2, 3)) + w["patch_embed.proj.bias"])
    positions = w["pos_embed"][0]
    return w["cls_token"][0, 0] + positions[0], [e + positions[1 + i] for i, e in enumerate(patches)]


def shallow(image, w, prompts, blocks, heads, patch):
    """[x_1, Z_1, E_1] = L_1([x_0, P, E_0]), then the layers as they are; the class token after the last norm."""
    x, patches = embeddings(image, w, patch)
    tokens = [x, *prompts, *patches]
    for i in range(blocks):
        tokens = layer(tokens, w, i, heads)
    return norm(tokens[0], w, "norm")


def deep(image, w, prompts, blocks, heads, patch):
    """[x_i, _, E_i] = L_i([x_i-1, P_i-1, E_i-1]): what a layer makes of its prompts is thrown away."""
    x, patches = embeddings(image, w, patch)
    for i in range(blocks):
        tokens = layer([x, *prompts[i], *patches], w, i, heads)
        x, patches = tokens[0], tokens[1 + len(prompts[i]) :]
    return norm(x, w, "norm")
