"""Server optimisers: against the papers number by number, and what becomes of their moments."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import reference_server
from hypothesis import given
from hypothesis import strategies as st
from rounds import begun, steps
from small import BACKBONE, phase

from fcil.arrays import digest, grouped, total, ungrouped
from fcil.engine.simulation import prepare, resume, simulate
from fcil.exchange.inline import Inline
from fcil.method import ServerOptimizer, Task
from fcil.method.server_optimizer import MOMENTS
from fcil.registry import build_method
from strategies.fedavg import FedAvg
from strategies.rolora import RoLoRA
from strategies.vpt import VPT

RULES = ("momentum", "adagrad", "yogi", "adam")
every_rule = pytest.mark.parametrize("rule", RULES)


def states(method, rounds=4, state=None, task=None):
    return [after for *_, after in steps(method, rounds, state, task)]


def same(left, right):
    assert digest(ungrouped(left)) == digest(ungrouped(right))


# ---- against the definition ------------------------------------------------------------------------------------------

SHARES = st.floats(0, 0.99)
SIZES = st.sampled_from([1e-4, 1e-2, 1.0, 30.0])


@every_rule
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(1, 3), max_size=3),
    st.integers(1, 5),
    SHARES,
    SHARES,
    SIZES,
    SIZES,
    SIZES,
)
def test_steps_are_those_of_the_papers_number_by_number(rule, seed, shape, rounds, beta1, beta2, lr, tau, scale):
    rng = np.random.default_rng(seed)
    optimizer, state = ServerOptimizer(rule, lr, beta1, beta2, tau), {}
    x = start = rng.normal(0, scale, shape)
    played = []
    for _ in range(rounds):
        counts = [int(n) for n in rng.integers(1, 50, 3)]
        clients = [x + rng.normal(0, scale, shape) * rng.choice([0, 1e-3, 1]) for _ in counts]
        played.append((clients, counts))
        mean = sum(n * (client - x) for client, n in zip(clients, counts, strict=True)) / sum(counts)
        changes, state = optimizer.step({"x": np.asarray(mean)}, state)
        x = x + changes["x"]
    for index in np.ndindex(*shape):
        one = [([float(client[index]) for client in clients], counts) for clients, counts in played]
        literal = (
            reference_server.fedavgm(float(start[index]), one, lr, beta1)
            if rule == "momentum"
            else reference_server.adaptive(float(start[index]), one, rule, lr, beta1, beta2, tau)
        )
        np.testing.assert_allclose(x[index], literal, rtol=1e-9, atol=1e-9 * max(scale, lr))


# ---- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [FedAvg(rank=2), VPT(length=3)], ids=["fedavg", "vpt"])
def test_momentum_without_memory_at_rate_one_is_the_mean_bit_for_bit(method):
    plain = states(method)
    for ours, theirs in zip(states(replace(method, server="momentum", server_beta1=0.0)), plain, strict=True):
        same({g: a for g, a in ours.items() if g != MOMENTS}, theirs)
    assert states(replace(method, server="momentum"))[-1].keys() == {*plain[-1], MOMENTS}


def test_momentum_under_a_constant_change_grows_to_a_multiple():
    optimizer, state = ServerOptimizer("momentum", 0.5, 0.75), {}
    for _ in range(200):
        changes, state = optimizer.step({"x": np.ones(3)}, state)
    np.testing.assert_allclose(changes["x"], 0.5 / (1 - 0.75))


@pytest.mark.parametrize("rule", ["yogi", "adam"])
def test_under_a_constant_change_the_others_go_at_their_rate_whatever_its_size(rule):
    optimizer, state = ServerOptimizer(rule, 0.5, 0.9, 0.9, 1e-6), {}
    for _ in range(300):
        changes, state = optimizer.step({"x": np.array([1e-1, -1.0, 30.0])}, state)
    np.testing.assert_allclose(changes["x"], [0.5, -0.5, 0.5], rtol=1e-3)


@every_rule
def test_nothing_changes_where_no_client_moved(rule):
    changes, state = ServerOptimizer(rule).step({"x": np.zeros((2, 3))}, {})
    assert not changes["x"].any()
    assert not state[MOMENTS]["momentum/x"].any()


# ---- moments ---------------------------------------------------------------------------------------------------------


@every_rule
def test_moments_survive_storage_and_inputs_stay(rule):
    method = FedAvg(rank=2, server=rule, server_lr=0.1)
    for at, _, updates, after in steps(method):
        again = grouped(ungrouped(after))
        before = digest(ungrouped(after))
        following = phase(at.round + 1)
        same(method.merge(again, following, updates), method.merge(after, following, updates))
        assert digest(ungrouped(after)) == before
        assert all(a.dtype == np.float64 for a in after[MOMENTS].values())


@every_rule
def test_sums_of_groups_of_clients_take_the_same_step(rule):
    method, state = FedAvg(rank=2, server=rule, server_lr=0.1), None
    for at, _, updates, after in steps(method):
        start = state or begun(method)
        groups = [method.sums(at, method.broadcast(start, at), part) for part in (updates[:1], updates[1:])]
        apart = method.merge_sums(start, at, total(groups))
        for name, a in ungrouped(apart).items():
            np.testing.assert_allclose(a, ungrouped(after)[name], rtol=1e-6, atol=1e-7)
        state = after


@dataclass(frozen=True, kw_only=True)
class Alternating(RoLoRA):
    """One factor a round, under momentum."""

    @property
    def server_optimizer(self):
        return ServerOptimizer("adam", 0.1)


def test_arrays_and_moments_that_a_round_does_not_train_rest():
    before = None
    for at, sent, updates, after in steps(Alternating(rank=2)):
        trained = set(updates[0].arrays)
        for name, a in after["module"].items():
            assert np.array_equal(a, sent[name]) == (name not in trained)
            if before and name not in trained and f"momentum/{name}" in before:
                for moment in ("momentum", "square"):
                    assert after[MOMENTS][f"{moment}/{name}"] is before[f"{moment}/{name}"]
        before = after[MOMENTS]
        assert len(before) == 2 * (2 + 8 * min(at.round, 2))


@every_rule
def test_a_new_tasks_head_rows_begin_without_moments_and_what_goes_on_keeps_them(rule):
    method, task = FedAvg(rank=2, server=rule, server_lr=0.1), Task(1, 2, 2)
    first = states(method)[-1]
    start = method.begin(first, phase(1, task=task, index=4), BACKBONE)
    assert start[MOMENTS] is first[MOMENTS]
    assert not [name for name in start[MOMENTS] if "head.1" in name]
    at, _, updates, after = next(steps(method, 1, start, task))
    bare = {group: arrays for group, arrays in start.items() if group != MOMENTS}
    without = method.merge(bare, at, updates)
    for name in ("head.1.weight", "head.1.bias"):
        np.testing.assert_array_equal(after["head"][name], without["head"][name])
        np.testing.assert_array_equal(after["head"][name.replace("1", "0")], first["head"][name.replace("1", "0")])
    name = next(iter(after["module"]))
    assert np.array_equal(after["module"][name], without["module"][name]) == (rule not in RULES)


def test_a_module_that_begins_anew_begins_without_moments():
    method = build_method("compose", {"rank": 2, "round": "fedavg(server = 'momentum')", "task": "task_arithmetic"})
    first = states(method)[-1]
    assert MOMENTS in first
    start = method.begin(first, phase(1, task=Task(1, 2, 2), index=4), BACKBONE)
    assert MOMENTS not in start
    keeping = build_method("compose", {"rank": 2, "round": "fedavg(server = 'momentum')", "task": "fedavg"})
    assert MOMENTS in keeping.begin(states(keeping)[-1], phase(1, task=Task(1, 2, 2), index=4), BACKBONE)


class Stop(BaseException):
    """The power goes off."""


class Stopping(Inline):
    """An exchange that ends before the second round."""

    def __call__(self, request):
        if request.phase.index == 1:
            raise Stop
        return super().__call__(request)


@pytest.mark.parametrize("name", ["fedavg", "vpt"])
def test_a_run_that_was_stopped_goes_on_with_its_moments(name, digits_config, tmp_path):
    own = {"rank": 2} if name == "fedavg" else {"length": 2}
    small = {
        "data": {"train_limit": 60, "test_limit": 20},
        "method": {"name": name, "server": "yogi", "server_lr": 0.05, **own},
    }
    session = prepare(digits_config(small), tmp_path / "run")
    with pytest.raises(Stop):
        simulate(session, tmp_path / "run", exchange=Stopping(session.worker))
    whole = simulate(prepare(digits_config(small), tmp_path / "whole"), tmp_path / "whole")
    assert simulate(resume(tmp_path / "run"), tmp_path / "run")["sha256"] == whole["sha256"]
