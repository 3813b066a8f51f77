"""Checks of merging: order of clients, sums over groups, copies of a client, and clients without examples."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from fcil.arrays import Arrays, State, digest, total, ungrouped
from fcil.battery.outcome import Broken, NotAsked
from fcil.battery.trial import CLIENTS, DATA, MERGE, PhaseRecord, Trial, pictures
from fcil.method import Averaging, ClientUpdate
from fcil.model.weight_adapter import WeightAdapter

__all__ = [
    "additive_merges_add", "changes_are_what_the_network_adds", "copies_of_a_client_are_that_client",
    "clients_without_examples_have_no_influence", "order_of_clients_does_not_matter", "shapes_are_kept_over_rounds",
]  # fmt: skip


def difference(left: Arrays, right: Arrays, rtol: float = 1e-4, atol: float = 1e-5) -> str | None:
    """Say how arrays differ by more than rtol |right| + atol; None if they do not."""
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
    for record in trial.records_so_far:
        if record.phase.kind == "train":
            again, sent = trial.broadcast(record.after, record.phase).arrays, record.broadcast.arrays
            layout = [{name: (a.shape, a.dtype.name) for name, a in arrays.items()} for arrays in (sent, again)]
            odd = sorted(n for n in layout[0].keys() | layout[1].keys() if layout[0].get(n) != layout[1].get(n))
            if odd:
                before, after = (shapes.get(odd[0], "nothing") for shapes in layout)
                raise Broken(
                    f"array {odd[0]} was {before} in the broadcast, and is {after} after the merge",
                    *MERGE, "broadcast", phase=record.phase,
                )  # fmt: skip
        sent_too = {"broadcast": record.broadcast.arrays, "references": record.broadcast.references}
        for functions, groups in ((MERGE, record.after), (("begin",), record.before), (("broadcast",), sent_too)):
            _check_values(record, groups, functions)


def _check_values(record: PhaseRecord, groups: State, functions: Sequence[str]) -> None:
    for group, arrays in groups.items():
        for name, a in arrays.items():
            if a.dtype == np.uint8 and group != "broadcast":
                continue  # packed bits: quantised weights, masks
            if a.dtype not in (np.float32, np.float64):
                raise Broken(
                    f"{group} {name}: type {a.dtype}; states and broadcasts hold float32 or float64",
                    *functions, phase=record.phase,
                )  # fmt: skip
            if not np.isfinite(a).all():
                raise Broken(
                    f"{group} {name}: {int((~np.isfinite(a)).sum())} of {a.size} values are NaN or infinite",
                    *functions, phase=record.phase,
                )  # fmt: skip


def order_of_clients_does_not_matter(trial: Trial) -> None:
    """The order of clients does not matter."""
    for record in trial.records:
        reverse = trial.merge(record, record.before, record.updates[::-1])
        if odd := difference(ungrouped(reverse), ungrouped(record.after)):
            raise Broken(
                f"with the clients in reverse order merge gives something else: {odd}", *MERGE, phase=record.phase
            )


def _merged_sums(trial: Trial, record: PhaseRecord, groups: Sequence[Sequence[ClientUpdate]]) -> State:
    method = trial.method.acting(record.phase)

    def merge(state: State, *groups: Sequence[ClientUpdate]) -> State:
        return method.merge_sums(
            state, record.phase, total([method.sums(record.phase, record.broadcast, group) for group in groups])
        )

    return trial.watch.call("sums and merge_sums", record.phase, MERGE, merge, record.before, *groups)


def additive_merges_add(trial: Trial) -> None:
    """Merging the sums of groups of clients is merging the clients, where `additive` is declared."""
    if not trial.method.additive:
        raise NotAsked("the method does not declare `additive`")
    advice = "; let `additive` return False, or override `sums` and `merge_sums` in place of `merge`"
    for record in trial.records:
        whole = _merged_sums(trial, record, [record.updates])
        if [(g, digest(a)) for g, a in whole.items()] != [(g, digest(a)) for g, a in record.after.items()]:
            odd = difference(ungrouped(whole), ungrouped(record.after), 0, 0) or "the order of the state's groups"
            raise Broken(
                f"`additive` is declared, but merge_sums of all clients' sums is not what merge gives: {odd}{advice}",
                "merge", "merge_sums", "sums", phase=record.phase,
            )  # fmt: skip
        for cut in range(1, CLIENTS):
            parts = _merged_sums(trial, record, [record.updates[:cut], record.updates[cut:]])
            if apart := difference(ungrouped(parts), ungrouped(record.after), 1e-6, 1e-7):
                raise Broken(
                    "`additive` is declared, but the sums of two groups of clients do not add up to those of all: "
                    f"{apart}; `sums` must be sums over clients, without means, maxima, or anything else that depends "
                    "on who else is there",
                    "sums", "merge_sums", phase=record.phase,
                )  # fmt: skip


def copies_of_a_client_are_that_client(trial: Trial) -> None:
    """One client alone, or several that send the same, make the next round's model, where a mean is declared."""
    means = 0
    for record in trial.records:
        method = trial.method.acting(record.phase)
        if record.phase.kind == "train" and isinstance(method, Averaging) and method.is_mean:
            means += 1
            for number in (1, 3, 8):  # of three that are trimmed one is left, whose sum is its mean
                merged = trial.merge(record, record.before, [record.updates[1]] * number)
                if odd := _difference_from_client(trial, record, merged):
                    who = "one client alone" if number == 1 else f"{number} copies of one client"
                    raise Broken(
                        f"{who} do not make that client's model: {odd}; where that is meant, let `is_mean` return "
                        "False",
                        *MERGE, phase=record.phase,
                    )  # fmt: skip
    if not means:
        raise NotAsked("the method is no mean of what its clients train")


def _difference_from_client(trial: Trial, record: PhaseRecord, merged: State) -> str | None:
    """Say how the next round's model differs from the client's, whose arrays may be other factors, if it differs."""
    method, client = trial.method.acting(record.phase), record.updates[1]
    sent = trial.broadcast(merged, record.phase)
    odd = difference({name: sent.arrays[name] for name in client.arrays}, client.arrays)
    if odd is None or method.additive:
        return odd
    local = method.local(record.phase)

    def model_of(arrays: Arrays, references: Arrays) -> Mapping[str, np.ndarray]:
        return {**local.receives(arrays, client.client), **local.frozen(references)}

    theirs = {**model_of(record.broadcast.arrays, record.broadcast.references), **client.arrays}
    return difference(
        _outputs(trial, record, model_of(sent.arrays, sent.references)), _outputs(trial, record, theirs), 1e-4, 1e-5
    )  # fmt: skip


def changes_are_what_the_network_adds(trial: Trial) -> None:
    """An adapter's arrays do in the network what it says of its changes."""
    adapter = trial.method.adapter
    if not isinstance(adapter, WeightAdapter):
        raise NotAsked("the method's adapter changes no weights that could be merged")
    for record in trial.records:
        local = trial.method.acting(record.phase).local(record.phase)
        if record.phase.kind != "train":
            continue
        arrays = {**record.broadcast.arrays, **local.frozen(record.broadcast.references), **record.updates[1].arrays}
        layers = adapter.changes(arrays)
        others = {name: a for name, a in arrays.items() if name.rpartition(".")[0] not in layers}
        fixed = local.frozen(record.broadcast.references)
        deployed = [adapter.deployed(layer, change, arrays) for layer, change in layers.items()]
        again = {**others, **fixed, **{name: a for layer in deployed for name, a in layer.items()}}
        if odd := difference(_outputs(trial, record, again), _outputs(trial, record, arrays), 1e-3, 1e-4):
            raise Broken(
                f"the adapter's changes, put back by `deployed`, make another model than its arrays: {odd}; let "
                "`changes` say exactly what the layers of `install` add to their weights",
                phase=record.phase,
            )


def _outputs(trial: Trial, record: PhaseRecord, arrays: Arrays) -> dict[str, np.ndarray]:
    """Compute features and the current task's logits of the test images."""
    trial.model.load(arrays)
    with torch.no_grad():
        features = trial.model.features(pictures(len(DATA.test)))
        logits = trial.model.logits(features, (record.phase.task.index,))
    return {"features": features.numpy(), "logits": logits.numpy()}


def clients_without_examples_have_no_influence(trial: Trial) -> None:
    """A client without examples and statistics has no influence, whatever it sends."""
    for record in trial.records:
        *others, last = record.updates
        nothing = {n: np.zeros_like(a) for n, a in last.statistics.items()}
        ghost = ClientUpdate(last.client, last.phase, 0, {n: a + 1 for n, a in last.arrays.items()}, nothing)
        with_it, without = (trial.merge(record, record.before, updates) for updates in ([*others, ghost], others))
        if odd := difference(ungrouped(with_it), ungrouped(without)):
            raise Broken(
                f"a client with num_examples = 0 changes the merge: {odd}; weight what clients send by num_examples",
                *MERGE, phase=record.phase,
            )  # fmt: skip
