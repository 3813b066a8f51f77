"""What must hold of clients' work and of how a method's code behaves: what trains, purity, randomness."""

import numpy as np

from fcil.arrays import digest
from fcil.battery.outcome import Broken
from fcil.battery.trial import CLIENT, CLIENTS, PARTS, Trial
from fcil.battery.watch import Change
from fcil.method import ClientUpdate, Phase, Task
from fcil.server.validation import expected, refusal

__all__ = [
    "clients_work_the_same_again", "goes_through", "inputs_stay_as_they_are", "only_generators_of_the_phase_are_drawn",
    "only_what_is_declared_trains", "replies_pass_the_servers_check", "same_inputs_give_the_same_bits",
]  # fmt: skip


def goes_through(trial: Trial) -> None:
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
    """What `local` declares trains and is sent, and nothing else changes."""
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
        for step in trial.steps:
            trial.begin(step.after, Phase(99, step.phase.kind, Task(2, 4, 1), 1, 0))
            trial.deploy(step.after, step.phase)
    for change in trial.watch.changes:
        broken = Broken(
            f"{change.what} changed what it was given: {', '.join(change.names[:3])}; copy before you write, or "
            "build new arrays",
            *change.functions, phase=change.phase,
        )  # fmt: skip
        raise broken from _where_it_writes(change)
    if not same:
        raise Broken("the weights of the frozen backbone have changed", "loss", "client_begin", "client_end")


def _where_it_writes(change: Change) -> Exception | None:
    """The exception by which writing to an array that cannot be written to shows itself, with its line."""
    try:
        change.again()
    except ValueError as error:
        return error if "read-only" in str(error) else None
    except Exception:  # something else, of no interest here
        return None
    return None


def same_inputs_give_the_same_bits(trial: Trial) -> None:
    """The server's functions give the same bits for the same inputs."""
    for step in trial.steps:
        phase = step.phase
        pairs = {
            "merge": (step.after, trial.merge(step, step.before, step.updates)),
            "deploy": ({"": trial.deploy(step.after, phase)}, {"": trial.deploy(step.after, phase)}),
        }
        sent = trial.broadcast(step.before, phase)
        pairs["broadcast"] = (
            {"": step.broadcast.arrays, "references": step.broadcast.references},
            {"": sent.arrays, "references": sent.references},
        )
        later = Phase(99, phase.kind, Task(2, 4, 1), 1, 0)
        pairs["begin"] = (trial.begin(step.after, later), trial.begin(step.after, later))
        for what, (first, second) in pairs.items():
            digests = [{group: digest(arrays) for group, arrays in each.items()} for each in (first, second)]
            if digests[0] != digests[1]:
                raise Broken(
                    f"{what} gave other bits the second time: draw from phase.generator(purpose) only, and keep "
                    "nothing on `self` or in the module",
                    *(("merge", "merge_sums", "sums") if what == "merge" else (what,)), phase=phase,
                )  # fmt: skip


def clients_work_the_same_again(trial: Trial) -> None:
    """A client works the same again, bit for bit, as it would in another process."""
    step = trial.steps[-2:][0]
    first = step.updates[1]
    store = {name: np.array(a) for name, a in step.stores[1][0].items()}
    again = trial.work(step.phase, step.broadcast, 1, store, trial.fresh_model())
    for what, one, two in (("array", first.arrays, again.arrays), ("statistic", first.statistics, again.statistics)):
        for name in sorted(one.keys() | two.keys()):
            if name not in one or name not in two or digest({"": one[name]}) != digest({"": two[name]}):
                raise Broken(
                    f"client 1: {what} {name} has other bits the second time: draw from step.generator(purpose) and "
                    "client.generator(purpose) only, and keep nothing on `self` or in the module",
                    *CLIENT, phase=step.phase,
                )  # fmt: skip


def only_generators_of_the_phase_are_drawn(trial: Trial) -> None:
    """Nobody draws from the global generators of NumPy, torch or Python."""
    if trial.exchanges and not trial.watch.draws and not trial.broken:
        for step in trial.steps:
            trial.deploy(step.after, step.phase)
    for draws in trial.watch.draws:
        raise Broken(
            f"{draws.what} drew from {', '.join(draws.generators)}, which depends on all that the process did before; "
            "use phase.generator(purpose) on the server, and step.generator or client.generator(purpose) on a client",
            *draws.functions, phase=draws.phase,
        )  # fmt: skip
