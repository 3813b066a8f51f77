"""Slow literal transcriptions of TIES, DARE, KnOTS and Core Space: dense matrices, whole vectors, loops over entries.

An expert is a dict layer -> dense change. Nothing of the product is imported here.
"""

import numpy as np


def sign(x):
    return (x > 0) - (x < 0)


def vector(expert):
    """All layers of an expert, one after the other."""
    return [float(x) for matrix in expert.values() for x in np.ravel(matrix)]


def unvector(values, like):
    out, begin = {}, 0
    for layer, matrix in like.items():
        out[layer] = np.reshape(values[begin : begin + matrix.size], matrix.shape)
        begin += matrix.size
    return out


def trim(values, top):
    """The round(top * d) largest magnitudes, at least one; ties with the last of them stay."""
    count = max(1, round(top * len(values)))
    least = sorted((abs(x) for x in values), reverse=True)[count - 1]
    return [x if abs(x) >= least else 0.0 for x in values]


def elect(vectors, weights):
    signs = [sign(sum(w * v[j] for w, v in zip(weights, vectors, strict=True))) for j in range(len(vectors[0]))]
    majority = sign(sum(signs))
    return [s or majority for s in signs]


def disjoint_mean(vectors, weights, signs):
    out = []
    for j, elected in enumerate(signs):
        kept = [(w, v[j]) for w, v in zip(weights, vectors, strict=True) if v[j] != 0 and sign(v[j]) == elected]
        out.append(sum(w * x for w, x in kept) / sum(w for w, _ in kept) if kept else 0.0)
    return out


def ties(experts, weights, top, scale):
    """Trim over all layers, elect, disjoint mean, lambda: layer -> dense."""
    vectors = [trim(vector(expert), top) for expert in experts]
    merged = disjoint_mean(vectors, weights, elect(vectors, weights))
    return unvector([scale * x for x in merged], experts[0])


def thinned(matrix, uniform, p):
    """DARE: an entry goes where its uniform number is below p; what stays is divided by 1 - p."""
    out = np.zeros(matrix.shape)
    for index in np.ndindex(matrix.shape):
        out[index] = 0.0 if uniform[index] < p else matrix[index] / (1 - p)
    return out


def shared_basis(matrices, tolerance=1e-10):
    """U and the coordinates S V_i^T, by a dense SVD of the matrices beside each other."""
    u, s, vt = np.linalg.svd(np.concatenate(matrices, axis=1), full_matrices=False)
    k = max(1, int((s > tolerance * s[0]).sum()))
    blocks = np.split(np.diag(s[:k]) @ vt[:k], len(matrices), axis=1)
    return u[:, :k], blocks


def knots(experts, weights, merge):
    """`merge(coordinates of all experts, weights)` between the dense SVD and U."""
    bases = {layer: shared_basis([expert[layer] for expert in experts]) for layer in experts[0]}
    inside = [{layer: blocks[i] for layer, (_, blocks) in bases.items()} for i in range(len(experts))]
    merged = merge(inside, weights)
    return {layer: u @ merged[layer] for layer, (u, _) in bases.items()}


def left_vectors(matrix, tolerance=1e-10):
    """Left singular vectors without the null space, their largest entries positive."""
    u, s, _ = np.linalg.svd(matrix, full_matrices=False)
    u = u[:, : max(1, int((s > tolerance * s[0]).sum()))]
    for j in range(u.shape[1]):
        if u[np.argmax(np.abs(u[:, j])), j] < 0:
            u[:, j] *= -1
    return u


def core(pairs):
    """U, V and M_i = U^T B_i A_i V of (B_i, A_i) pairs of one layer."""
    u = left_vectors(np.concatenate([b for b, _ in pairs], axis=1))
    v = left_vectors(np.concatenate([a for _, a in pairs]).T)
    return u, v, [u.T @ (b @ a) @ v for b, a in pairs]
