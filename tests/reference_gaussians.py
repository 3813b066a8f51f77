"""CCVR and FedProto, literally: numbers, means and covariances of classes, client by client and sample by sample."""

import numpy as np


def moments(features):
    """n, mean and sample covariance, sum (f - m)(f - m)^T / (n - 1), of one client's features of one class."""
    n = len(features)
    mean = sum(features) / n
    scatter = sum(np.outer(f - mean, f - mean) for f in features)
    return n, mean, scatter / (n - 1) if n > 1 else np.zeros((len(mean),) * 2)


def pooled(clients):
    """CCVR's pooled mean and covariance of (n_k, m_k, S_k), as the paper prints them."""
    n = sum(n_k for n_k, _, _ in clients)
    mean = sum(n_k / n * m_k for n_k, m_k, _ in clients)
    if n < 2:
        return n, mean, np.zeros((len(mean),) * 2)
    within = sum((n_k - 1) / (n - 1) * s_k for n_k, _, s_k in clients)
    means = sum(n_k / (n - 1) * np.outer(m_k, m_k) for n_k, m_k, _ in clients)
    return n, mean, within + means - n / (n - 1) * np.outer(mean, mean)


def prototypes(clients, weighting):
    """FedProto's prototype of a class from every client's features of it: the pooled mean, or the mean of the means."""
    clients = [features for features in clients if len(features)]
    means = [sum(features) / len(features) for features in clients]
    if weighting == "clients":
        return sum(means) / len(means)
    return sum(len(f) * m for f, m in zip(clients, means, strict=True)) / sum(len(f) for f in clients)


def prototype_loss(features, labels, prototypes):
    """mean_x ||h(x) - p_y||^2 / d; a sample whose class has no prototype counts as 0."""
    total = 0.0
    for h, y in zip(features, labels, strict=True):
        if y in prototypes:
            total += sum((a - b) ** 2 for a, b in zip(h, prototypes[y], strict=True)) / len(h)
    return total / len(labels)
