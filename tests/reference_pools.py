"""L2P, DualPrompt and CODA-Prompt, literally: one image, one token, one key and one component at a time.

Written from the papers' equations on the ViT of `tests/reference_prompts.py`; nothing of the product is used.
"""

import math

import torch
from reference_prompts import embeddings, gelu, layer, linear, norm, shallow


def cosine(a, b):
    return (a @ b) / (math.sqrt(a @ a) * math.sqrt(b @ b))


def attention(tokens, w, block, heads, keys, values):
    """softmax(q [P_K; K]^T / sqrt(head width)) [P_V; V]; the prefixes have no queries."""
    width = len(tokens[0]) // heads
    qkv = [linear(x, w, f"blocks.{block}.attn.qkv").view(3, heads, width) for x in tokens]
    all_keys = [p.view(heads, width) for p in keys] + [t[1] for t in qkv]
    all_values = [p.view(heads, width) for p in values] + [t[2] for t in qkv]
    out = []
    for at in range(len(tokens)):
        mixed = []
        for h in range(heads):
            weights = torch.stack([torch.exp(qkv[at][0, h] @ key[h] / math.sqrt(width)) for key in all_keys])
            mixed.append(sum(p * value[h] for p, value in zip(weights / weights.sum(), all_values, strict=True)))
        out.append(linear(torch.cat(mixed), w, f"blocks.{block}.attn.proj"))
    return out


def with_prefixes(image, w, prefixes, blocks, heads, patch, projected=False):
    """The class token after the last norm; `prefixes` maps a layer, from 1, to its lists P_K and P_V."""
    x, patches = embeddings(image, w, patch)
    tokens = [x, *patches]
    for block in range(blocks):
        keys, values = prefixes.get(block + 1, ([], []))
        if projected:
            weight, bias = (w[f"blocks.{block}.attn.qkv.{kind}"] for kind in ("weight", "bias"))
            d = len(x)
            keys = [weight[d : 2 * d] @ p + bias[d : 2 * d] for p in keys]
            values = [weight[2 * d :] @ p + bias[2 * d :] for p in values]
        normed = [norm(t, w, f"blocks.{block}.norm1") for t in tokens]
        attended = attention(normed, w, block, heads, keys, values)
        tokens = [t + a for t, a in zip(tokens, attended, strict=True)]
        for i, t in enumerate(tokens):
            hidden = gelu(linear(norm(t, w, f"blocks.{block}.norm2"), w, f"blocks.{block}.mlp.fc1"))
            tokens[i] = t + linear(hidden, w, f"blocks.{block}.mlp.fc2")
    return norm(tokens[0], w, "norm")


def query(image, w, blocks, heads, patch):
    return shallow(image, w, [], blocks, heads, patch)


def l2p(image, w, keys, prompts, top, blocks, heads, patch):
    """The mean output of the prompts of the `top` nearest keys; and the cosines of those keys."""
    q = query(image, w, blocks, heads, patch)
    similar = [cosine(q, k) for k in keys]
    chosen = sorted(range(len(keys)), key=lambda m: -similar[m])[:top]
    x, patches = embeddings(image, w, patch)
    own = [token + w["pos_embed"][0, 0] for m in chosen for token in prompts[m]]
    tokens = [x, *own, *patches]
    for block in range(blocks):
        tokens = layer(tokens, w, block, heads)
    outputs = [norm(t, w, "norm") for t in tokens[1 : 1 + len(own)]]
    return sum(outputs) / len(outputs), [similar[m] for m in chosen]


def dualprompt(image, w, general, slots, keys, layers, training, blocks, heads, patch, projected=False):
    """The class token, and the cosine with the slot's key.

    Args:
        general: layer -> (P_K, P_V); `slots` has as much for every task.
        training: the task that trains, None in testing.
    """
    q = query(image, w, blocks, heads, patch)
    similar = [cosine(q, k) for k in keys]
    slot = max(range(len(keys)), key=lambda t: similar[t]) if training is None else training
    prefixes = {**general, **{at: slots[slot][i] for i, at in enumerate(layers)}}
    return with_prefixes(image, w, prefixes, blocks, heads, patch, projected), similar[slot]


def codaprompt(image, w, components, keys, attentions, blocks, heads, patch, projected=False):
    """The class token; of every layer from 1 its components (m, rows, width), keys and attention vectors (m, width)."""
    q = query(image, w, blocks, heads, patch)
    prefixes = {}
    for at in components:
        whole = 0
        for p, k, a in zip(components[at], keys[at], attentions[at], strict=True):
            whole = whole + cosine(q * a, k) * p
        half = len(whole) // 2
        prefixes[at] = (list(whole[:half]), list(whole[half:]))
    return with_prefixes(image, w, prefixes, blocks, heads, patch, projected)


def penalty(matrices):
    """sum_B mean((B B^T - I)^2), entry by entry."""
    total = 0.0
    for b in matrices:
        entries = [
            (float(b[i].flatten() @ b[j].flatten()) - (i == j)) ** 2 for i in range(len(b)) for j in range(len(b))
        ]
        total += sum(entries) / len(entries)
    return total


def gram_schmidt(old, drawn):
    """Classical: v less the projections of v itself on every row before it, whatever their angles; then norm 1."""
    rows = [r.copy() for r in old]
    for v in drawn:
        u = v.copy()
        for r in rows:
            u = u - (v @ r) / (r @ r) * r
        rows.append(u)
    return [u / math.sqrt(u @ u) for u in rows[len(old) :]]
