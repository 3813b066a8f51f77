"""Names of the arrays of a kernelised weight change, and which kernel and competition make it: no torch is imported.

The arrays of a layer with `parts` sub-layers along its output (3 for a fused attn.qkv, else 1), for rank q:

    <layer>.kernel_in   (parts, HEADS, in, q / HEADS)            points P, one per input
    <layer>.kernel_out  (parts, HEADS, out / parts, q / HEADS)   points Q, one per output
    <layer>.kernel_mix  (parts, 3)                               alpha, gamma, beta of the mix kernel
    <layer>.sparsity    (parts,)                                 share s of the entries to suppress; never trains

The arithmetic is in `fcil.model.kernels`.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["HEADS", "IN", "MIX", "OUT", "SPARSITY", "Competition", "Form", "Kernel"]

IN, OUT, MIX, SPARSITY = ".kernel_in", ".kernel_out", ".kernel_mix", ".sparsity"
HEADS = 2
"""Number of sets of points of a part; the piecewise-linear kernel subtracts the distances of the second."""

Kernel = Literal["linear", "piecewise", "mix"]
Competition = Literal["code", "paper", "none"]


@dataclass(frozen=True)
class Form:
    """Turns points into a weight change by a kernel, and by a competition among the entries of its result."""

    kernel: Kernel
    competition: Competition
