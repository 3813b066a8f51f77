"""Slow, literal transcriptions of spectral and sparse merges over dense changes, for tests only."""

import numpy as np


def dense(changes):
    return [c.b @ c.a for c in changes]


def polar(matrix):
    """P Q^T of the SVD P D Q^T: all singular values become 1, those of zero included."""
    p, _, qt = np.linalg.svd(matrix, full_matrices=False)
    return p @ qt


def inverse_root_polar(matrix):
    """M (M^T M)^(-1/2), which is the polar factor where the columns are independent."""
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    return matrix @ (vectors / np.sqrt(values)) @ vectors.T


def tsv_m(deltas, orthogonal=polar):
    """U S V^T with all tasks' leading min(out, in) / T vectors side by side, made orthogonal."""
    k = min(deltas[0].shape) // len(deltas)
    us, ss, vts = zip(*[np.linalg.svd(d, full_matrices=False) for d in deltas], strict=True)
    u = np.concatenate([u[:, :k] for u in us], 1)
    s = np.concatenate([s[:k] for s in ss])
    v = np.concatenate([vt[:k].T for vt in vts], 1)
    return orthogonal(u) @ np.diag(s) @ orthogonal(v).T


def iso_c(deltas):
    """The mean singular value times U V^T of the sum."""
    u, s, vt = np.linalg.svd(sum(deltas), full_matrices=False)
    return np.mean(s) * u @ vt


def iso_cts(deltas, common):
    """As published: k leading components of the sum, then each task's leading ones outside of them."""
    tasks, rank = len(deltas), min(deltas[0].shape)
    specific = round((rank - int(rank * common)) / tasks) * tasks
    k, own = rank - specific, specific // tasks
    u, s, vt = np.linalg.svd(sum(deltas), full_matrices=False)
    us, ss, vts = [u[:, :k]], [s[:k]], [vt[:k]]
    for delta in deltas:
        u_t, s_t, vt_t = np.linalg.svd(delta - u[:, :k] @ u[:, :k].T @ delta, full_matrices=False)
        us, ss, vts = [*us, u_t[:, :own]], [*ss, s_t[:own]], [*vts, vt_t[:own]]
    left, right = polar(np.concatenate(us, 1)), polar(np.concatenate(vts, 0))
    return np.mean(np.concatenate(ss)) * left @ right


def opcm(tasks, alpha):
    """The published recursion with its lambda_t; `tasks` hold a list of layers each."""

    def norm(layers):
        return np.sqrt(sum(np.linalg.norm(layer) ** 2 for layer in layers))

    merged, factor = list(tasks[0]), 1.0
    for t, task in enumerate(tasks[1:], 2):
        cleaned = []
        for layer, delta in zip(merged, task, strict=True):
            u, s, vt = np.linalg.svd(layer, full_matrices=False)
            inside = u.T @ delta @ vt.T
            outside = delta - u @ inside @ vt
            block = next((i for i in range(len(s)) if s[: i + 1].sum() / s.sum() > alpha), len(s))
            for i in range(len(s)):
                for j in range(len(s)):
                    if i == j or (i < block and j < block):
                        inside[i, j] = 0
            cleaned.append(outside + u @ inside @ vt)
        added = [factor * layer + clean for layer, clean in zip(merged, cleaned, strict=True)]
        factor = norm(added) / np.mean([norm(one) for one in tasks[:t]])
        merged = [layer / factor for layer in added]
    return merged


def by_entry(deltas, rule):
    """`rule` of the entries of all tasks, place by place."""
    merged = np.empty(deltas[0].shape)
    for place in np.ndindex(merged.shape):
        merged[place] = rule([float(d[place]) for d in deltas])
    return merged


def mag_max(deltas):
    return by_entry(deltas, lambda values: max(values, key=lambda v: (abs(v), v)))


def consensus_ta(deltas, threshold, agree):
    def rule(values):
        needed = sum(abs(v) >= threshold * abs(sum(values) - v) for v in values)
        return sum(values) if needed >= agree else 0.0

    return by_entry(deltas, rule)


def emr(layers):
    """Elected changes, every task's mask and rescaler; `layers` hold the tasks' changes of each layer."""

    def rule(values):
        sign = np.sign(sum(values))
        return sign * max([abs(v) for v in values if v * sign > 0], default=0.0)

    elected = [by_entry(deltas, rule) for deltas in layers]
    masks = [[delta * tau > 0 for delta in deltas] for deltas, tau in zip(layers, elected, strict=True)]
    factors = []
    for t in range(len(layers[0])):
        own = sum(np.abs(deltas[t]).sum() for deltas in layers)
        kept = sum(np.abs(mask[t] * tau).sum() for mask, tau in zip(masks, elected, strict=True))
        factors.append(own / kept if kept else 0.0)
    return elected, masks, factors
