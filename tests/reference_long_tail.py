"""The long tail's rule in exact arithmetic: no power is rounded, so that halves are halves."""

from fractions import Fraction


def nearest_count(n_max, classes, rho, c):
    """Round n_max rho^(-c / (classes - 1)) to the nearest whole number, halves up, at least 1.

    k + 1/2 <= x is (2 k + 1)^(classes - 1) rho^c <= (2 n_max)^(classes - 1), in which no root is left.
    """
    if classes == 1:
        return max(1, n_max)
    k = 1
    while Fraction(2 * k + 1) ** (classes - 1) * Fraction(rho) ** c <= Fraction(2 * n_max) ** (classes - 1):
        k += 1
    return k
