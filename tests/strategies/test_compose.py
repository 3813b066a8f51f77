"""Merges of changes over a round's clients and over tasks, alone and put together, from made-up updates."""

from dataclasses import replace

import numpy as np
import pytest
import reference
from problems import close
from small import BACKBONE, LINEARS, dense, phase
from trials import same_bits, weights

from fcil.engine.simulation import prepare
from fcil.errors import ConfigError
from fcil.method import ClientUpdate, Task
from fcil.model.lora import A, B, changes_of
from fcil.registry import build_method

TASKS = [Task(0, 0, 2), Task(1, 2, 2), Task(2, 4, 2)]
COUNTS = [5, 20, 1]


def updates(method, state, at, seed=0):
    """Random changes of whatever trains; statistics of the declared shapes, positive."""
    rng = np.random.default_rng([seed, at.task.index, at.round])
    sent, local = method.acting(at).broadcast(state, at).arrays, method.acting(at).local(at)
    shapes = {n: s for p in local.passes for each in p.statistics for n, s in each.shapes(
        {name: a.shape for name, a in sent.items()}).items()}  # fmt: skip
    return [
        ClientUpdate(
            client, at.index, n,
            {name: (sent[name] + rng.normal(0, 0.1, sent[name].shape)).astype(np.float32)
             for name in local.trained(list(sent))},
            {name: rng.uniform(1, 2, shape).astype(np.float32) for name, shape in shapes.items()},
        )
        for client, n in enumerate(COUNTS)
    ]  # fmt: skip


def through(method, rounds=2, tasks=TASKS):
    """The state and phase at the end of every task."""
    state = method.init(BACKBONE, 6, 0)
    for task in tasks:
        for position, kind in enumerate(method.phases(task, rounds), 1):
            at = replace(phase(task=task), kind=kind, round=position)
            state = method.begin(state, at, BACKBONE) if position == 1 else state
            state = method.acting(at).merge(state, at, updates(method, state, at))
        yield state, at


def test_a_merged_round_is_the_start_and_the_merged_change_cut_to_the_rank():
    method = build_method("task_arithmetic", {"rank": 3, "at": "round"})
    at = phase(task=TASKS[0])
    state = method.begin(method.init(BACKBONE, 6, 0), at, BACKBONE)
    for _ in range(2):  # B is zero at first
        sent = updates(method, state, at)
        after = method.acting(at).merge(state, at, sent)
        for layer in LINEARS:
            mean = reference.fedavg([dense(u.arrays, layer) for u in sent], COUNTS)
            u, s, vt = np.linalg.svd(mean)
            close(dense(after["module"], layer), (u[:, :3] * s[:3]) @ vt[:3], 1e-5)
        state = after
    weights = [n / sum(COUNTS) for n in COUNTS]
    close(state["head"]["head.0.bias"], sum(w * u.arrays["head.0.bias"] for w, u in zip(weights, sent, strict=True)),
          1e-6)  # fmt: skip


@pytest.mark.parametrize("kind", ["mean", "sum"])
def test_merged_tasks_are_deployed_and_one_alone_as_it_is(kind):
    method, seen = build_method("task_arithmetic", {"rank": 2, "sum": kind, "scale": 0.5}), []
    for state, at in through(method):
        seen.append(state["module"])
        deployed = method.deploy(state, at)
        scale = 1.0 if len(seen) == 1 else 0.5 if kind == "mean" else 0.5 * len(seen)
        for layer in LINEARS:
            pairs = [tuple(task[layer + f].astype(np.float64) for f in (B, A)) for task in seen]
            close(dense(deployed, layer), scale * reference.mean_of_tasks(pairs), 1e-6)
        assert {n for n in deployed if n.startswith("head.")} == set(state["head"])


def test_a_task_begins_anew_or_where_the_last_one_ended():
    for start, same in (("fresh", False), ("last", True)):
        method = build_method("task_arithmetic", {"rank": 2, "start": start})
        (first, _), *_ = through(method, tasks=TASKS[:1])
        then = method.begin(first, phase(task=TASKS[1]), BACKBONE)
        layer = next(iter(LINEARS))
        assert np.array_equal(then["module"][layer + B], first["module"][layer + B]) == same
        assert np.array_equal(then["past"][f"task0/{layer}{B}"], first["module"][layer + B])


def test_compose_merges_clients_by_one_method_and_tasks_by_the_other():
    both = build_method(
        "compose", {"rank": 2, "round": "lorm(gram_b = 'exact')", "task": "task_arithmetic(scale = 2.0)"}
    )
    clients, tasks = (
        build_method("lorm", {"rank": 2, "gram_b": "exact"}),
        build_method("task_arithmetic", {"rank": 2, "scale": 2.0}),
    )
    state = both.init(BACKBONE, 6, 0)
    for task in TASKS:
        assert both.phases(task, 2) == ("train", "train")
        for position in (1, 2):
            at = replace(phase(task=task), round=position)
            state = both.begin(state, at, BACKBONE) if position == 1 else state
            assert both.acting(at).local(at) == clients.local(at)
            sent = updates(both, state, at)
            after = both.acting(at).merge(state, at, sent)
            for name, a in clients.merge(state, at, sent)["module"].items():
                assert np.array_equal(after["module"][name], a)
            state = after
    deployed, literal = both.deploy(state, at), tasks.deploy(state, at)
    assert all(np.array_equal(deployed[name], a) for name, a in literal.items())
    assert len(changes_of(deployed)) == len(LINEARS)
    assert dense(deployed, layer := next(iter(LINEARS))).shape == LINEARS[layer]


def test_compose_with_lorm_over_tasks_reports_grams_and_with_fedavg_lets_one_pair_go_on():
    mean_then_grams = build_method("compose", {"rank": 2})
    assert mean_then_grams.phases(TASKS[0], 3) == ("train", "train", "train", "report")
    *_, (state, at) = through(mean_then_grams)
    assert set(state) >= {"module", "past", "gram"}
    assert mean_then_grams.deploy(state, at)
    one = build_method("compose", {"rank": 2, "round": "task_arithmetic", "task": "fedavg"})
    *_, (state, at) = through(one)
    assert "past" not in state
    assert one.deploy(state, at).keys() == {**state["module"], **state["head"]}.keys()
    assert not one.additive
    assert mean_then_grams.additive


@pytest.mark.parametrize("clients", ["fedavg", "task_arithmetic", "rolora", "lorm(gram_a = 'full')"])
@pytest.mark.parametrize("gram", ["full", "sketch:3"])
def test_whole_grams_of_tasks_are_nothing_that_a_round_touches(clients, gram):
    method = build_method("compose", {"rank": 2, "round": clients, "task": f"lorm(gram_a = '{gram}')"})
    sums = []
    for state, at in through(method):
        sums.append({name: a.copy() for name, a in state["gram_sum"].items()})
        assert method.deploy(state, at)
    assert all((sums[1][name] - a > 0).all() for name, a in sums[0].items())  # every task's Grams are added


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"round": "joint"}, "has one client and merges nothing"),
        ({"task": "sequential"}, "has one client and merges nothing"),
        ({"task": "flora(ranks = [1, 2])"}, "merges clients only"),
        ({"task": "rolora"}, "merges clients only"),
        ({"round": "fedavgg"}, "method.round = 'fedavgg': no such method. Did you mean 'fedavg'"),
        ({"task": "lorm(gram_a = 'ful')"}, "gram_a"),
        ({"task": "lorm(rank = 3)"}, "leave out rank"),
        ({"task": "task_arithmetic(at = 'round')"}, "leave out at"),
        ({"task": "lorm(gram_a"}, "write a method"),
        ({"task": ""}, "write a method"),
        ({"round": 'fedavg(adapter = "lora")'}, "leave out adapter; clients train that of method.task"),
        ({"round": "compose"}, "does not train LoRA pairs that another method could merge"),
        ({"task": "lorm(gram = 'full')"}, "unknown setting"),
        ({"round": "ewc"}, "method.round = 'ewc': needs a report after the rounds of each task, and only that of"),
        ({"round": "ccvr"}, "needs a report after the rounds"),
        ({"round": "fot"}, "method.round = 'fot': begins in its own way (FOT.begin), and compose never asks it to"),
        ({"round": "scaffold"}, "begins in its own way (Scaffold.begin)"),
        ({"round": "lwf"}, "begins in its own way (LwF.begin)"),
        ({"round": "lander"}, "begins in its own way (LANDER.init)"),
        ({"task": "pilora"}, "method.task = 'pilora': begins in its own way (PILoRA.init)"),
    ],
)
def test_what_compose_cannot_put_together_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace(")", r"\)")):
        build_method("compose", settings)


MEDIAN = """
from dataclasses import dataclass
from fcil.strategies.fedavg import FedAvg

@dataclass(frozen=True, kw_only=True)
class Own(FedAvg):
    '''Leaves the server's optimiser out.'''

    additive = False

    def merge(self, state, phase, updates):
        return state
"""


@pytest.mark.parametrize(("outer", "setting"), [("compose", "round"), ("lorm+ranpac", "base")])
def test_a_part_whose_merge_leaves_something_out_is_refused_as_it_is_by_itself(outer, setting, tmp_path, digits_config):
    path = tmp_path / "own.py"
    path.write_text(MEDIAN)
    prepare(digits_config({"method": {"name": outer, setting: f"{path}:Own"}}))
    with pytest.raises(ConfigError, match=r"Own\.merge merges without asking .* leaves out the server's optimiser"):
        prepare(digits_config({"method": {"name": outer, setting: f"{path}:Own(server = 'adam')"}}))


def test_what_a_part_trains_under_compose_is_what_it_trains_by_itself():
    """One pair goes on, so that there is no other difference; what would be none of itself is refused."""
    taken = 0
    for name in ("ccvr", "derpp", "er", "ewc", "fedavgm", "fedex", "fedprox", "flora", "fot", "lwf", "scaffold"):
        try:
            composed = build_method("compose", {"round": name, "rank": 2, "task": "fedavg"})
        except ConfigError:
            continue
        taken += 1
        assert same_bits(weights(composed), weights(build_method(name, {"rank": 2}))), name
    assert taken >= 6
