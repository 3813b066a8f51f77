"""What a class or a state is refused for, since the house would silently take it for something else."""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pytest
from rounds import begun, steps
from small import phase

from fcil.battery import trial_of
from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError, MethodError
from fcil.method import Averaging, ClientUpdate, Modules
from fcil.method.code import bypassing
from fcil.method.groups import check_groups
from fcil.model.lora import Lora
from fcil.options import Option
from fcil.registry import build_method, method_class, method_names
from strategies.fedavg import FedAvg

SNELLA = "snella(sparsity = 0.75, sparsity_start = 0.25)"
GROUP = """
from dataclasses import dataclass
from fcil.strategies.fedavg import FedAvg

@dataclass(frozen=True, kw_only=True)
class Kept(FedAvg):
    '''Keeps the module with which a task began.'''

    def begin(self, state, phase, backbone):
        state = super().begin(state, phase, backbone)
        return {**state, "GROUP": dict(state["module"])}
"""
OWN = """
from dataclasses import dataclass
import numpy as np
from fcil.method import Modules
from fcil.strategies.fedavg import FedAvg

@dataclass(frozen=True, kw_only=True)
class Median(FedAvg):
    '''The median of every entry.'''

    additive = False

    def merge(self, state, phase, updates):
        AFTER
        medians = {n: np.median([u.arrays[n] for u in updates], 0).astype("f4") for n in updates[0].arrays}
        return Modules.of(after).replaced(medians)
"""


# ---- groups of the state ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["trained", "start", "fixed", "server_optimizer"])
def test_a_group_under_a_name_that_is_taken_stops_the_run(group, tmp_path, digits_config):
    path = tmp_path / "kept.py"
    path.write_text(GROUP.replace("GROUP", group))
    config = digits_config({"method": {"name": str(path), "rank": 2}, "train": {"rounds": 1}})
    with pytest.raises(MethodError, match=f"task 1, round 1: the state has a group '{group}', a name that is taken"):
        simulate(prepare(config), tmp_path / "run")


@pytest.mark.parametrize("group", ["trained", "start", "fixed", "server_optimizer"])
def test_a_group_that_a_merge_leaves_is_refused_and_one_of_another_name_is_not(group):
    method, at = FedAvg(rank=2), phase(1)
    state = begun(method)
    check_groups(method, state, at)
    check_groups(method, {**state, "mine": dict(state["module"])}, at)
    with pytest.raises(MethodError, match="Give the method's own group another name"):
        check_groups(method, {**state, group: dict(state["module"])}, at)


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ({"adapter": SNELLA}, {"start", "trained"}), ({"adapter": "loftq"}, {"start", "fixed"}),
        ({"server": "adam"}, {"server_optimizer"}),
    ],
)  # fmt: skip
def test_groups_that_the_house_fills_are_taken_where_it_does(settings, groups):
    trial = trial_of("fedavg", settings)
    seen = {group for record in trial.records for group in record.after}
    assert groups <= seen
    for record in trial.records:
        check_groups(trial.method, record.after, record.phase)


# ---- a merge of one's own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "left_out"),
    [
        ({"adapter": SNELLA}, "the schedule of Snella"), ({"server": "momentum"}, "the server's optimiser"),
        ({"adapter": SNELLA, "server": "adam"}, "the schedule of Snella and the server's optimiser"),
    ],
)  # fmt: skip
def test_a_merge_that_leaves_something_out_is_refused_where_there_is_something(
    setting, left_out, tmp_path, digits_config
):
    path = tmp_path / "median.py"
    path.write_text(OWN.replace("AFTER", "after = state"))
    prepare(digits_config({"method": {"name": str(path)}}))
    message = f"Median.merge merges without asking super...merge, and leaves out {left_out}, without a word"
    with pytest.raises(ConfigError, match=message):
        prepare(digits_config({"method": {"name": str(path), **setting}}))
    with pytest.raises(ConfigError, match=message):
        trial_of(str(path), setting)
    path.write_text(OWN.replace("AFTER", "after = super().merge(state, phase, updates)"))
    prepare(digits_config({"method": {"name": str(path), **setting}}))


def test_a_merge_on_top_of_averaging_keeps_the_schedule(tmp_path):
    """And one that is not would have trained at the first sparsity to the end."""
    ends = {}
    for name, after in (("kept", "super().merge(state, phase, updates)"), ("lost", "state")):
        path = tmp_path / f"{name}.py"
        path.write_text(OWN.replace("AFTER", f"after = {after}"))
        method = build_method(str(path), {"adapter": "snella(sparsity = 0.75, sparsity_start = 0.25)"})
        state = begun(method)
        (sparsity, *_) = (n for n in state["module"] if n.endswith(".sparsity"))
        at = phase(1)
        sent = method.broadcast(state, at)
        trained = {n: sent.arrays[n] for n in method.local(at).trained(list(sent.arrays))}
        shapes = method.local(at).reported({n: a.shape for n, a in sent.arrays.items()})
        update = ClientUpdate(0, 0, 5, trained, {n: np.ones(s) for n, s in shapes.items()})
        ends[name] = method.merge(state, replace(at, phases_left=1), [update])["module"][sparsity]
        first = state["module"][sparsity]
    np.testing.assert_array_equal(ends["lost"], first)
    assert (ends["kept"] > first).all()


def test_no_shipped_method_leaves_out_a_schedule_or_an_optimiser():
    """Those whose merge never asks Averaging's have settings for neither."""
    for name in method_names():
        kind, method = method_class(name), build_method(name, {})
        if isinstance(method, Averaging) and bypassing(kind, Averaging):
            assert type(method.adapter).next_round is Lora.next_round, name
            assert "server" not in vars(method), name
            assert "adapter_text" not in vars(method), name


# ---- values without an annotation ------------------------------------------------------------------------------------


def test_a_default_without_an_annotation_is_refused_since_it_has_no_effect():
    with pytest.raises(TypeError, match=r"Mine: rank = 8 has no effect: rank is a setting of FedAvg"):

        @dataclass(frozen=True, kw_only=True)
        class Mine(FedAvg):
            rank = 8


def test_with_an_annotation_it_is_a_new_default_and_constants_of_other_names_are_legal():
    @dataclass(frozen=True, kw_only=True)
    class Mine(FedAvg):
        rank: Annotated[int, Option("rank", low=1)] = 8
        additive = True
        mu = 0.1

    assert (Mine().rank, Mine.mu) == (8, 0.1)


# ---- head rows -------------------------------------------------------------------------------------------------------


def test_a_lost_head_row_says_how_it_was_lost():
    state = begun(FedAvg(rank=2))
    assert Modules.of(state).head_rows(0).keys() == {"head.0.weight", "head.0.bias"}
    for lost in (Modules.of({"module": state["module"]}), Modules.of({**state, "head": {}})):
        with pytest.raises(KeyError, match=r"no head.0.weight: `begin` adds what super.*and `merge` returns all"):
            lost.head_rows(0)
    *_, (_, _, _, after) = steps(FedAvg(rank=2), 1)
    with pytest.raises(KeyError, match=r"no head\.1\.weight"):
        Modules.of(after).head_rows(0, 1)
