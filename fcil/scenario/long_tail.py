"""Cut a training part down: to a long tail, in which few classes have many images, or to few shots of later classes.

Pure. What stays of a class are its first images in the data set's order.

The tail is the rule of "Long-Tailed Class Incremental Learning" (Liu et al., ECCV 2022, arXiv 2210.00266): from class
to class the number of images falls by the same factor, from n_max to n_max / rho.
"""

import numpy as np

from fcil.errors import ConfigError
from fcil.scenario.tasks import Tasks
from fcil.seeding import generator

__all__ = ["few_shots", "kept_samples", "tail_counts"]


def tail_counts(n_max: int, classes: int, rho: float) -> np.ndarray:
    """Number of images of the class in each position of the tail, n_c = n_max rho^(-c / (C - 1)), at least 1.

    Rounded to the nearest whole number, halves up.

    >>> tail_counts(500, 5, 100).tolist()
    [500, 158, 50, 16, 5]

    Args:
        n_max: number of images of the class in position 0.
        classes: C.
        rho: the largest number over the smallest one, at least 1.

    Returns:
        (C,) int64, never growing from one position to the next.
    """
    exact = [n_max * rho ** (-c / max(classes - 1, 1)) for c in range(classes)]
    # powers are off by some last bits, others on other machines: without the inner rounding they would decide on halves
    return np.array([max(1, int(np.floor(round(n, 9) + 0.5))) for n in exact], np.int64)


def kept_samples(labels: np.ndarray, order: np.ndarray, settings: Tasks, seed: int) -> np.ndarray:
    """Choose the training samples that `tasks.long_tail` leaves: of every class the first ones in the data set's order.

    n_max is the number of images of the class in position 0 of the tail, which keeps all of its own. A class that has
    fewer images than the rule gives it keeps what it has.

    Args:
        labels: (n,) the data set's label of each training sample.
        order: (C,) position in the class order -> the data set's label.

    Returns:
        Sorted indices into `labels`; all of them at `tasks.long_tail = 1`.

    Raises:
        ConfigError: the class in position 0 of the tail has no image.
    """
    if settings.long_tail == 1 and settings.tail_order != "ordered":
        raise ConfigError(f'tasks.tail_order = "{settings.tail_order}": of which tail? Set tasks.long_tail above 1')
    if settings.long_tail == 1:
        return np.arange(len(labels))
    tail = order
    if settings.tail_order == "shuffled":
        tail = generator(seed, "long tail").permutation(order)
    n_max = int((labels == tail[0]).sum())
    if not n_max:
        raise ConfigError(
            f"tasks.long_tail = {settings.long_tail:g}: class {tail[0]} (numbered from 0) is to have the most training "
            "images and has none; raise data.train_limit, or choose another tasks.order or tasks.tail_order"
        )
    counts = tail_counts(n_max, len(tail), settings.long_tail)
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:n] for c, n in zip(tail, counts, strict=True)]))


def few_shots(labels: np.ndarray, samples: np.ndarray, later: np.ndarray, shots: int) -> np.ndarray:
    """Choose the training samples that `tasks.shots` leaves: of every later class the first ones that are kept so far.

    A class that has fewer keeps what it has. So does public code of few-shot class-incremental learning in federation
    (STSA's, after UOPP), before it shares the images out.

    >>> few_shots(np.array([0, 1, 1, 0, 1]), np.arange(5), np.array([1]), 2).tolist()
    [0, 1, 2, 3]

    Args:
        labels: (n,) the data set's label of each training sample.
        samples: sorted indices into `labels`.
        later: labels of the classes of all tasks but the first.
        shots: most samples of each of them; 0 for all.

    Returns:
        Sorted indices into `labels`.
    """
    if not shots:
        return samples
    of_class = labels[samples]
    whole = samples[~np.isin(of_class, later)]
    return np.sort(np.concatenate([whole, *(samples[of_class == c][:shots] for c in later)]))
