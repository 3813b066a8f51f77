"""LoRM's merge over tasks, (sum_t B_t A_t G_t)(sum_t G_t)^+ in factors, and the Grams that it keeps for it."""

from collections.abc import Sequence

import numpy as np

from fcil.arrays import Arrays, State, as_float32
from fcil.merging import packed
from fcil.merging.response_matching import merge_tasks
from fcil.method import Modules, of_task, split_tasks
from fcil.model.lora import A, B, layers_of

__all__ = ["close_task", "mean_of_modules", "mean_of_tasks", "merge_closed_tasks"]

GRAM, GRAM_SUM = "gram", "gram_sum"
"""Groups of the state: diag(G_t) and A_t G_t of every task, task<t>/<name>; and sum_t G_t, where Grams are whole."""
RESPONSE = ".response"
"""A_t G_t, beside the diagonal of G_t under the name of A_t."""


def mean_of_tasks(current: Arrays, past: Arrays) -> Arrays:
    """The mean of all tasks' B_t A_t as one pair of rank T r per layer; a model of `Pass`."""
    return mean_of_modules([*split_tasks(past), current])


def mean_of_modules(modules: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """The mean of the modules' B A, as one pair per layer."""
    out: dict[str, np.ndarray] = {}
    for layer in layers_of(modules[-1]):
        out[layer + A] = np.concatenate([m[layer + A] for m in modules], 0) / np.float32(len(modules))
        out[layer + B] = np.concatenate([m[layer + B] for m in modules], 1)
    return out


def close_task(state: State, task: int, grams: Arrays, whole: bool) -> State:
    """The state with a task's Grams: diag(G_t) and, of whole Grams, A_t G_t and the running sum.

    Args:
        grams: name of A_t -> G_t summed over clients: its diagonal, or where `whole` its upper half.
    """
    kept, running = dict(state.get(GRAM, {})), dict(state.get(GRAM_SUM, {}))
    module = Modules.of(state).module
    for name, gram in grams.items():
        kept[of_task(task, name)] = packed.diagonal(gram) if whole else gram
        if whole:
            kept[of_task(task, name + RESPONSE)] = packed.times(module[name], gram)
            running[name] = running[name] + gram if name in running else gram
    return {**state, GRAM: kept, **({GRAM_SUM: running} if running else {})}


def merge_closed_tasks(state: State, whole: bool) -> dict[str, np.ndarray]:
    """The pair of every layer for all closed tasks, of rank T r: B = [B_1 ... B_T], A = A_t G_t (sum_s G_s)^+."""
    modules, grams = Modules.of(state).all_tasks, split_tasks(state[GRAM])
    merged: dict[str, np.ndarray] = {}
    for layer in layers_of(modules[-1]):
        pairs = [(m[layer + B], m[layer + A]) for m in modules]
        energies = [g[layer + A] for g in grams]
        responses = [g[layer + A + RESPONSE] for g in grams if whole]
        gram_sum = state.get(GRAM_SUM, {}).get(layer + A)
        merged[layer + B], merged[layer + A] = merge_tasks(pairs, energies, responses, gram_sum)
    return as_float32(merged)
