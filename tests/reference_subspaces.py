"""FOT and DOLFIN, literally, from a matrix of inputs or of their sketch: one direction at a time."""

import numpy as np


def projector(basis):
    """U U^T of orthonormal rows."""
    total = np.zeros((basis.shape[1],) * 2)
    for row in basis:
        total += np.outer(row, row)
    return total


def grown(basis, sketch, energy):
    """Add left singular vectors of (I - U U^T) Y, one by one, until ||U^T Y||^2 >= energy ||Y||^2."""
    n = len(sketch)
    rest = (np.eye(n) - projector(basis)) @ sketch
    u, _, _ = np.linalg.svd(rest)
    rows = list(basis)
    for i in range(n - len(basis)):
        if np.square(np.array(rows).reshape(-1, n) @ sketch).sum() >= energy * np.square(sketch).sum():
            break
        rows.append(u[:, i])
    return np.array(rows).reshape(-1, n)


def fot_step(start, updates, weights, basis):
    """W + dW (I - U U^T), dW the mean change of a layer's dense weight."""
    mean = sum(w * (u - start) for w, u in zip(weights, updates, strict=True)) / sum(weights)
    return start + mean @ (np.eye(start.shape[1]) - projector(basis))


def dolfin_factor(basis, inputs, rank):
    """The leading left singular vectors of (I - M M^T) H, as rows."""
    u, _, _ = np.linalg.svd((np.eye(len(inputs)) - projector(basis)) @ inputs)
    return u[:, :rank].T
