"""Checks of clients' work and of how a method's code behaves: what trains, purity, randomness."""

import numpy as np

from fcil.arrays import State, digest
from fcil.battery.outcome import Broken
from fcil.battery.trial import CLIENT, CLIENTS, PARTS, PhaseRecord, Trial, digests
from fcil.battery.watch import Change
from fcil.method import ClientUpdate, Phase
from fcil.server.validation import expected, refusal

__all__ = [
    "clients_repeat_their_work", "inputs_stay_as_they_are", "only_generators_of_the_phase_are_drawn",
    "only_what_is_declared_trains", "replies_pass_the_servers_check", "run_goes_through",
    "same_inputs_give_the_same_bits",
]  # fmt: skip


def run_goes_through(trial: Trial) -> None:
    """A run over two tasks goes through, on clients and on the server."""
    if trial.broken:
        raise trial.broken


def replies_pass_the_servers_check(trial: Trial) -> None:
    """Every client's reply is what the server expects: names, shapes, types, finite values."""
    for exchange in trial.exchanges:
        phase = exchange.phase
        counts = {c: len(PARTS[phase.task.index][c]) for c in range(CLIENTS)}
        wanted = expected(phase, exchange.broadcast, trial.method.acting(phase).local(phase), counts)
        for position, update in enumerate(exchange.updates):
            if reason := refusal(update, wanted, [u.client for u in exchange.updates[:position]]):
                advice = ""
                if reason.startswith("statistic"):
                    advice = "; a statistic's `finish` must give what its `shapes` announces"
                raise Broken(f"client {update.client}: {reason}{advice}", *CLIENT, phase=phase)


def only_what_is_declared_trains(trial: Trial) -> None:
    """Exactly what `local` declares trains and is sent; nothing else changes."""
    for exchange in trial.exchanges:
        phase = exchange.phase
        trained = set(trial.method.acting(phase).local(phase).trained(list(exchange.broadcast.arrays)))
        for update in exchange.updates:
            _check_trained(exchange.phase, update, trained)
        if phase.kind == "train" and exchange.updates:
            sent, back = exchange.broadcast.arrays, exchange.updates[0].arrays
            if all(np.array_equal(back[name], sent[name]) for name in trained):
                raise Broken(
                    f"nothing moved of {', '.join(sorted(trained)[:3]) or 'no arrays'}: the loss has no gradient there",
                    "loss", "local", phase=phase,
                )  # fmt: skip
    for phase, client, names in trial.undeclared:
        raise Broken(
            f"client {client}: {', '.join(names[:3])} changed while the client trained, and `local` does not "
            "declare it: name it in Local.trains, or do not write to the model's tensors",
            "loss", "client_begin", "local", phase=phase,
        )  # fmt: skip


def _check_trained(phase: Phase, update: ClientUpdate, trained: set[str]) -> None:
    if set(update.arrays) != trained:
        odd = sorted(set(update.arrays) ^ trained)
        raise Broken(f"client {update.client}: sends other arrays than train: {', '.join(odd[:3])}", phase=phase)
    for name, a in update.arrays.items():
        if a.dtype != np.float32 or not np.isfinite(a).all():
            raise Broken(f"client {update.client}: array {name}: not float32, or not finite", "loss", phase=phase)


def inputs_stay_as_they_are(trial: Trial) -> None:
    """No call changes what it is given: states, broadcasts, updates, and the frozen backbone."""
    same = trial.fresh_model().backbone_digest() == trial.model.backbone_digest() if trial.exchanges else True
    if not trial.broken:
        for record in trial.records:
            trial.begin(record.after, trial.further_task())
            trial.deploy(record.after, record.phase)
    for change in trial.watch.changes:
        broken = Broken(
            f"{change.what} changed what it was given: {', '.join(change.names[:3])}; copy before you write, or "
            "build new arrays",
            *change.functions, phase=change.phase,
        )  # fmt: skip
        raise broken from _writing_error(change)
    if not same:
        raise Broken("the weights of the frozen backbone have changed", "loss", "client_begin", "client_end")


def _writing_error(change: Change) -> Exception | None:
    """Repeat a call with read-only inputs, for the exception that names the line which writes, if there is one."""
    try:
        change.again()
    except ValueError as error:
        return error if "read-only" in str(error) else None
    except Exception:  # something else, of no interest here
        return None
    return None


def same_inputs_give_the_same_bits(trial: Trial) -> None:
    """The server's functions give the same bits for the same inputs."""
    for record in trial.records:
        phase = record.phase
        for what, (first, second) in _repeated(trial, record).items():
            if digests(first) != digests(second):
                raise Broken(
                    f"{what} gave other bits the second time, as in another process: draw from "
                    "phase.generator(purpose) only, and keep nothing on `self`, in the class or in the module",
                    *(("merge", "merge_sums", "sums") if what == "merge" else (what,)), phase=phase,
                )  # fmt: skip


def _repeated(trial: Trial, record: PhaseRecord) -> dict[str, tuple[State, State]]:
    """What the server's functions gave, and what they give in a process that remembers nothing of the run."""
    later, forgotten = trial.further_task(), trial.memory.forgotten
    first = {"deploy": {"": trial.deploy(record.after, record.phase)}, "begin": trial.begin(record.after, later)}
    with forgotten():
        merged = trial.merge(record, record.before, record.updates)
    with forgotten():
        deployed = {"": trial.deploy(record.after, record.phase)}
    with forgotten():
        sent = trial.broadcast(record.before, record.phase)
    with forgotten():
        begun = trial.begin(record.after, later)
    before = record.broadcast
    return {
        "merge": (record.after, merged),
        "deploy": (first["deploy"], deployed),
        "broadcast": (
            {"": before.arrays, "references": before.references}, {"": sent.arrays, "references": sent.references}
        ),
        "begin": (first["begin"], begun),
    }  # fmt: skip


def clients_repeat_their_work(trial: Trial) -> None:
    """A client works the same again, bit for bit, as it would in another process."""
    for record in trial.records:
        if record is trial.records[-2:][0] or record.stores[1][1]:  # one phase, and all that leave something behind
            _check_repeated(trial, record)


def _check_repeated(trial: Trial, record: PhaseRecord) -> None:
    """Let client 1 work a phase again from the same arrays of its own; compare what it sends and what it keeps."""
    first, (before, store_of_client) = record.updates[1], record.stores[1]
    store = {name: np.array(a) for name, a in before.items()}
    with trial.memory.forgotten():
        again = trial.work(record.phase, record.broadcast, 1, store, trial.fresh_model())
    pairs = {
        "array": (first.arrays, again.arrays),
        "statistic": (first.statistics, again.statistics),
        "kept array": (store_of_client, store),
    }
    for what, (one, two) in pairs.items():
        for name in sorted(one.keys() | two.keys()):
            if name not in one or name not in two or digest({"": one[name]}) != digest({"": two[name]}):
                raise Broken(
                    f"client 1: {what} {name} has other bits the second time: draw from step.generator(purpose) and "
                    "client.generator(purpose) only, and keep nothing on `self`, in the class or in the module",
                    *CLIENT, phase=record.phase,
                )  # fmt: skip


def only_generators_of_the_phase_are_drawn(trial: Trial) -> None:
    """Nobody draws from the global generators of NumPy, torch or Python."""
    if trial.exchanges and not trial.watch.draws and not trial.broken:
        for record in trial.records:
            trial.deploy(record.after, record.phase)
    for draws in trial.watch.draws:
        raise Broken(
            f"{draws.what} drew from {', '.join(draws.generators)}, which depends on all that the process did before; "
            "use phase.generator(purpose) on the server, and step.generator or client.generator(purpose) on a client",
            *draws.functions, phase=draws.phase,
        )  # fmt: skip
