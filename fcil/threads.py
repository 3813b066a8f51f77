"""Count the CPUs, limit the threads of torch and of linear algebra, and run large pieces of work in parallel."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

__all__ = ["cores", "linear_algebra", "map_in_threads", "threads"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_limited: ContextVar[int] = ContextVar("limited", default=0)
"""The number of threads of the block that this thread is in; 0 outside of all."""


@cache
def _blas() -> ThreadpoolController:
    """Find the BLAS libraries that are loaded; the search takes milliseconds, so it is done once."""
    import scipy.linalg  # noqa: F401  brings linear algebra of its own, which has to be there to be seen
    import torch  # noqa: F401  so does this

    return ThreadpoolController()  # type: ignore[no-untyped-call]


def linear_algebra() -> list[str]:
    """Libraries of linear algebra that this process has loaded, each with its version and the kernels it has chosen."""
    keys = ("internal_api", "version", "architecture")
    return [" ".join(str(library.get(key)) for key in keys) for library in _blas().info()]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Limit torch and NumPy's linear algebra to `count` threads each: the same bits need the same number everywhere."""
    import torch  # slow to import, and settings are checked without it

    before = torch.get_num_threads()
    if _limited.get() == before == count:  # a block in such a block, as that of each client in that of its group
        yield
        return
    torch.set_num_threads(count)
    inside = _limited.set(count)
    try:
        with _blas().limit(limits=count):
            yield
    finally:
        _limited.reset(inside)
        torch.set_num_threads(before)


def map_in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply `work` to every item and return the results in order, running as many at a time as `threads` allows.

    Each call has one thread of linear algebra, so the bits do not depend on that number. For calls of tens of
    milliseconds and more: with shorter ones the threads wait for the interpreter's lock.

    >>> map_in_threads(abs, [-3, 2, -1])
    [3, 2, 1]
    """
    import torch

    with _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(work, items))
