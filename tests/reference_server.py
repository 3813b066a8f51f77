"""Server optimisers, literally: one number at a time, from the papers' algorithms.

FedAvgM: Hsu et al., arXiv 1909.06335, section 4.3:  v <- beta v + Dw,  w <- w - v  with Dw = sum_k n_k / n (w - w_k).
Others: Reddi et al., arXiv 2003.00295v5, Algorithm 2: x_0 and v_-1 >= tau^2 (taken as equal) to begin with, m_-1 = 0,
then in round t with D the clients' mean change, m_t = beta1 m_t-1 + (1 - beta1) D, v_t by the rule, and
x_t+1 = x_t + eta m_t / (sqrt(v_t) + tau), without bias correction.
"""

import math


def mean_change(x, clients, counts):
    """sum_k n_k (x_k - x) / n, of one number."""
    return sum(n * (theirs - x) for theirs, n in zip(clients, counts, strict=True)) / sum(counts)


def fedavgm(x, rounds, lr, beta):
    """One number after rounds of (its value at each client, their examples)."""
    v = 0.0
    for clients, counts in rounds:
        v = beta * v - mean_change(x, clients, counts)
        x = x - lr * v
    return x


def adaptive(x, rounds, rule, lr, beta1, beta2, tau):
    """As `fedavgm`, by FedAdagrad, FedYogi or FedAdam."""
    m, v = 0.0, tau**2
    for clients, counts in rounds:
        d = mean_change(x, clients, counts)
        m = beta1 * m + (1 - beta1) * d
        if rule == "adagrad":
            v = v + d**2
        elif rule == "yogi":
            sign = (v > d**2) - (v < d**2)
            v = v - (1 - beta2) * d**2 * sign
        elif rule == "adam":
            v = beta2 * v + (1 - beta2) * d**2
        x = x + lr * m / (math.sqrt(v) + tau)
    return x
