"""What must hold of merging: order, sums, copies, and clients without examples."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from fcil.arrays import Arrays, State, digest, total, ungrouped
from fcil.battery.outcome import Broken, NotAsked
from fcil.battery.trial import CLIENTS, DATA, MERGE, Step, Trial, pictures
from fcil.method import Averaging, ClientUpdate

__all__ = [
    "additive_merges_add", "copies_of_a_client_are_that_client", "nobodys_examples_count_for_nothing",
    "order_of_clients_does_not_matter", "shapes_are_kept_over_rounds",
]  # fmt: skip


def difference(left: Arrays, right: Arrays, rtol: float = 1e-4, atol: float = 1e-5) -> str | None:
    """How arrays differ by more than rtol |right| + atol, or None."""
    if left.keys() != right.keys():
        return f"one has {', '.join(sorted(left.keys() ^ right.keys())[:3])}, the other has not"
    for name, a in left.items():
        b = right[name]
        if a.shape != b.shape:
            return f"array {name}: shape {a.shape} against {b.shape}"
        if not np.allclose(a, b, rtol, atol):
            return f"array {name}: differs by up to {np.abs(np.asarray(a, float) - b).max():.3g}"
    return None


def shapes_are_kept_over_rounds(trial: Trial) -> None:
    """Over the rounds of a task, names, shapes and types stay as they are, and all values are finite."""
    for step in trial.first_steps:
        if step.phase.kind == "train":
            again, sent = trial.broadcast(step.after, step.phase).arrays, step.broadcast.arrays
            layout = [{name: (a.shape, a.dtype.name) for name, a in arrays.items()} for arrays in (sent, again)]
            odd = sorted(n for n in layout[0].keys() | layout[1].keys() if layout[0].get(n) != layout[1].get(n))
            if odd:
                before, after = (each.get(odd[0], "nothing") for each in layout)
                raise Broken(
                    f"array {odd[0]} was {before} in the broadcast, and is {after} after the merge",
                    *MERGE, "broadcast", phase=step.phase,
                )  # fmt: skip
        sent_too = {"broadcast": step.broadcast.arrays, "references": step.broadcast.references}
        for functions, groups in ((MERGE, step.after), (("begin",), step.before), (("broadcast",), sent_too)):
            _check_values(step, groups, functions)


def _check_values(step: Step, groups: State, functions: Sequence[str]) -> None:
    for group, arrays in groups.items():
        for name, a in arrays.items():
            if a.dtype not in (np.float32, np.float64):
                raise Broken(
                    f"{group} {name}: type {a.dtype}; states and broadcasts hold float32 or float64",
                    *functions, phase=step.phase,
                )  # fmt: skip
            if not np.isfinite(a).all():
                raise Broken(
                    f"{group} {name}: {int((~np.isfinite(a)).sum())} of {a.size} values are NaN or infinite",
                    *functions, phase=step.phase,
                )  # fmt: skip


def order_of_clients_does_not_matter(trial: Trial) -> None:
    """The order of clients does not matter."""
    for step in trial.steps:
        reverse = trial.merge(step, step.before, step.updates[::-1])
        if odd := difference(ungrouped(reverse), ungrouped(step.after)):
            raise Broken(
                f"with the clients in reverse order merge gives something else: {odd}", *MERGE, phase=step.phase
            )


def _merged_sums(trial: Trial, step: Step, groups: Sequence[Sequence[ClientUpdate]]) -> State:
    method = trial.method.acting(step.phase)

    def merge(state: State, *groups: Sequence[ClientUpdate]) -> State:
        return method.merge_sums(
            state, step.phase, total([method.sums(step.phase, step.broadcast, group) for group in groups])
        )

    return trial.watch.call("sums and merge_sums", step.phase, MERGE, merge, step.before, *groups)


def additive_merges_add(trial: Trial) -> None:
    """Where `additive` is declared, merging the sums of groups of clients is merging the clients."""
    if not trial.method.additive:
        raise NotAsked("the method does not declare `additive`")
    advice = "; let `additive` return False, or override `sums` and `merge_sums` in place of `merge`"
    for step in trial.steps:
        whole = _merged_sums(trial, step, [step.updates])
        if [(g, digest(a)) for g, a in whole.items()] != [(g, digest(a)) for g, a in step.after.items()]:
            odd = difference(ungrouped(whole), ungrouped(step.after), 0, 0) or "the order of the state's groups"
            raise Broken(
                f"`additive` is declared, but merge_sums of all clients' sums is not what merge gives: {odd}{advice}",
                "merge", "merge_sums", "sums", phase=step.phase,
            )  # fmt: skip
        for cut in range(1, CLIENTS):
            parts = _merged_sums(trial, step, [step.updates[:cut], step.updates[cut:]])
            if apart := difference(ungrouped(parts), ungrouped(step.after), 1e-6, 1e-7):
                raise Broken(
                    "`additive` is declared, but the sums of two groups of clients do not add up to those of all: "
                    f"{apart}; `sums` must be sums over clients, without means, maxima, or anything else that depends "
                    "on who else is there",
                    "sums", "merge_sums", phase=step.phase,
                )  # fmt: skip


def copies_of_a_client_are_that_client(trial: Trial) -> None:
    """Where a mean is declared, one client alone, or several that send the same, make the next round's model."""
    means = 0
    for step in trial.steps:
        method = trial.method.acting(step.phase)
        if step.phase.kind == "train" and isinstance(method, Averaging) and method.is_mean:
            means += 1
            for number in (1, 3):
                merged = trial.merge(step, step.before, [step.updates[1]] * number)
                if odd := _not_that_client(trial, step, merged):
                    who = "one client alone" if number == 1 else f"{number} copies of one client"
                    raise Broken(
                        f"{who} do not make that client's model: {odd}; where that is meant, let `is_mean` return "
                        "False",
                        *MERGE, phase=step.phase,
                    )  # fmt: skip
    if not means:
        raise NotAsked("the method is no mean of what its clients train")


def _not_that_client(trial: Trial, step: Step, merged: State) -> str | None:
    """How the next round's model differs from the client's; its arrays may be other factors of the same change."""
    method, client = trial.method.acting(step.phase), step.updates[1]
    sent = trial.broadcast(merged, step.phase)
    odd = difference({name: sent.arrays[name] for name in client.arrays}, client.arrays)
    if odd is None or method.additive:
        return odd
    local = method.local(step.phase)

    def model_of(arrays: Arrays, references: Arrays) -> Mapping[str, np.ndarray]:
        return {**local.receives(arrays, client.client), **local.frozen(references)}

    theirs = {**model_of(step.broadcast.arrays, step.broadcast.references), **client.arrays}
    return difference(
        _outputs(trial, step, model_of(sent.arrays, sent.references)), _outputs(trial, step, theirs), 1e-4, 1e-5
    )  # fmt: skip


def _outputs(trial: Trial, step: Step, arrays: Arrays) -> dict[str, np.ndarray]:
    """What a model makes of images: features and the current task's logits."""
    trial.model.load(arrays)
    with torch.no_grad():
        features = trial.model.features(pictures(len(DATA.test)))
        logits = trial.model.logits(features, (step.phase.task.index,))
    return {"features": features.numpy(), "logits": logits.numpy()}


def nobodys_examples_count_for_nothing(trial: Trial) -> None:
    """A client without examples and statistics has no influence, whatever it sends."""
    for step in trial.steps:
        *others, last = step.updates
        nothing = {n: np.zeros_like(a) for n, a in last.statistics.items()}
        ghost = ClientUpdate(last.client, last.phase, 0, {n: a + 1 for n, a in last.arrays.items()}, nothing)
        with_it, without = (trial.merge(step, step.before, updates) for updates in ([*others, ghost], others))
        if odd := difference(ungrouped(with_it), ungrouped(without)):
            raise Broken(
                f"a client with num_examples = 0 changes the merge: {odd}; weight what clients send by num_examples",
                *MERGE, phase=step.phase,
            )  # fmt: skip
