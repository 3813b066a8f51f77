"""Rules by which public code of the field splits samples among clients, beside the two of `partition`. Pure.

Each is one draw: it returns the clients' samples, or None where the rule gives no split, and is asked again then.
Who uses which rule: docs/data.md.
"""

import numpy as np

__all__ = ["dirichlet_capped", "power_law", "shared_classes"]

Parts = list[np.ndarray] | None


def dirichlet_capped(labels: np.ndarray, clients: int, beta: float, rng: np.random.Generator) -> Parts:
    """Cut each class at proportions from Dir(beta 1_K); a client that has n / K samples already gets no more.

    Class by class: its samples are shuffled and p ~ Dir(beta 1_K) is drawn; p_k is set to 0 where client k holds n / K
    samples or more, p is divided by its sum, and the class is cut after floor(n_c (p_1 + ... + p_k)) samples. Where
    rounding leaves these sums a little below 1, the class's last sample goes to the last client, full or not, as in
    public code.

    Args:
        labels: (n,) class of each sample.

    Returns:
        For each client its samples in the order of their classes; None where all that is left of p is 0.
    """
    n = len(labels)
    sizes = np.zeros(clients, np.int64)
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        p = rng.dirichlet(np.full(clients, beta)) * (sizes < n / clients)
        if not p.sum() > 0:
            return None
        cuts = (np.cumsum(p / p.sum()) * len(members)).astype(np.int64)[:-1]
        shares = np.split(members, cuts)
        for client, share in enumerate(shares):
            parts[client].append(share)
        sizes += [len(share) for share in shares]
    return [np.concatenate(part) for part in parts]


def shared_classes(labels: np.ndarray, clients: int, each: int, rng: np.random.Generator) -> Parts:
    """Let each client draw `each` classes and take all of their samples, whoever else has drawn them too.

    Args:
        labels: (n,) class of each sample.

    Returns:
        For each client its samples; None where nobody has drawn some class, whose samples would be lost.
    """
    classes = np.unique(labels)
    drawn = [rng.choice(classes, each, replace=False) for _ in range(clients)]
    if len(np.unique(np.concatenate(drawn))) < len(classes):
        return None
    return [np.flatnonzero(np.isin(labels, classes_of_client)) for classes_of_client in drawn]


def _sizes(n: int, clients: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Numbers of samples of each client, (K,) int64, which sum to n: proportional to draws of density a x^(a - 1)."""
    s = rng.power(exponent, clients)
    total = s.sum() or 1.0  # draws of a small exponent may all be 0
    sizes: np.ndarray = np.rint(s / total * n).astype(np.int64)
    while (excess := int(sizes.sum()) - n) != 0:
        sizes[rng.choice(np.flatnonzero(sizes > 0) if excess > 0 else clients)] -= np.sign(excess)
    return sizes


def power_law(labels: np.ndarray, clients: int, beta: float, exponent: float, rng: np.random.Generator) -> Parts:
    """Give clients unequal numbers of samples, and each a mix of classes from Dir(beta 1) as far as the stock lasts.

    Sizes come first. Then client by client: q ~ Dir(beta 1) over the classes of which samples are left, and of each
    class the client gets its size times q samples, rounded, or all that is left; so it may get more than its size, by
    half a sample a class at most. What is left after the last client goes, class by class, to those who have less than
    their size, in their order.

    Args:
        labels: (n,) class of each sample.
        exponent: a of the density a x^(a - 1) on [0, 1] from which sizes are drawn.

    Returns:
        For each client its samples in the order of their classes.
    """
    classes, stock = np.unique(labels, return_counts=True)
    members = [rng.permutation(np.flatnonzero(labels == c)) for c in classes]
    sizes = _sizes(len(labels), clients, exponent, rng)
    counts = np.zeros((clients, len(classes)), np.int64)
    for client, size in enumerate(sizes):
        remaining_classes = np.flatnonzero(stock)
        if len(remaining_classes):
            wanted = np.rint(rng.dirichlet(np.full(len(remaining_classes), beta)) * size).astype(np.int64)
            counts[client, remaining_classes] = np.minimum(wanted, stock[remaining_classes])
            stock = stock - counts[client]
    for client, size in enumerate(sizes):
        for c in np.flatnonzero(stock):
            more = max(0, min(int(size - counts[client].sum()), int(stock[c])))
            counts[client, c] += more
            stock[c] -= more
    shares = [np.split(of_class, np.cumsum(counts[:, c])[:-1]) for c, of_class in enumerate(members)]
    return [np.concatenate([of_class[client] for of_class in shares]) for client in range(clients)]
