"""What every method must keep to, whatever it does: the battery of `fcil.battery` over all that the registry finds."""

from dataclasses import replace
from functools import cache

import pytest
from small import small_settings

from fcil.arrays import nbytes, ungrouped
from fcil.battery import CHECKS, NotAsked, trial_of
from fcil.battery.merging import changes_are_what_the_network_adds
from fcil.engine.simulation import prepare
from fcil.errors import ConfigError, MergeError
from fcil.method import Averaging
from fcil.model.weight_adapter import WeightAdapter
from fcil.options import describe
from fcil.registry import build_method, method_class, method_names

NAMES = method_names()
NO_MEAN = {"fedadam", "fedavgm", "fot"}
"""Methods whose server moves elsewhere than to the mean."""
trial = cache(lambda name: trial_of(name, {}))
every_method = pytest.mark.parametrize("name", NAMES)


def test_there_are_methods():
    assert {"fedavg", "lorm"} <= set(NAMES)


@cache
def is_asked(check, name):
    """Check a promise; False where it is not asked of this method. Checked once, though two tests want to know."""
    try:
        check(trial(name))
    except NotAsked:
        return False
    return True


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@every_method
def test_every_method_keeps_to(check, name):
    if not is_asked(check, name):  # of whom a promise is asked is tested below
        assert check.__name__ in (
            "additive_merges_add",
            "changes_are_what_the_network_adds",
            "copies_of_a_client_are_that_client",
            "stores_survive_storage",
        )


@every_method
def test_a_trial_has_every_phase_of_two_tasks_and_nothing_odd_was_seen(name):
    seen = trial(name)
    tasks = dict.fromkeys(record.phase.task for record in seen.records)
    kinds = [kind for task in tasks for kind in seen.method.phases(task, 2)]
    assert len(tasks) == 2
    assert [record.phase.kind for record in seen.records] == kinds
    assert [record.phase.index for record in seen.records] == list(range(len(kinds)))
    assert all(len(record.updates) == 3 for record in seen.records)
    assert seen.watch.changes == seen.watch.draws == seen.undeclared == []
    assert nbytes(ungrouped(seen.records[-1].after)) < 1_000_000, "its settings in `fcil.battery.trial` are not small"


def test_promises_are_asked_of_those_that_make_them():
    """Of all that take a mean and have rounds copies are asked, and of all that say so that their sums add."""
    asked = {check.__name__: {name for name in NAMES if is_asked(check, name)} for check in CHECKS}
    acting = {n: [trial(n).method.acting(s.phase) for s in trial(n).records if s.phase.kind == "train"] for n in NAMES}
    means = {n for n in NAMES if any(isinstance(method, Averaging) and method.is_mean for method in acting[n])}
    assert {n for n in NAMES if any(isinstance(method, Averaging) for method in acting[n])} - means == NO_MEAN
    assert asked["copies_of_a_client_are_that_client"] == means
    assert {"fedavg", "lorm", "compose", "flora", "flexlora", "ties", "lorm+ranpac"} <= means
    assert asked["additive_merges_add"] == {name for name in NAMES if trial(name).method.additive}
    assert {"derpp", "er", "glfc", "icarl", "scaffold"} <= asked["stores_survive_storage"]


def everywhere(name):
    """The method's small settings at its defaults, and wherever else it can merge."""
    places = [o.type for o in describe(method_class(name)) if o.name == "at"]
    ats = [{"at": at} for at in ("task", "round", "both") if any(f'"{at}"' in place for place in places)]
    return [small_settings(name) | at for at in [{}, *ats]]


@every_method
def test_a_method_that_needs_single_updates_is_not_asked_for_sums(name, digits_config):
    for method in everywhere(name):
        config = digits_config({"method": method, "run": {"aggregate_on_worker": True}})
        settings = {key: value for key, value in method.items() if key != "name"}
        if build_method(name, settings).additive:
            prepare(config)
        else:
            with pytest.raises(ConfigError, match="needs the clients' single updates"):
                prepare(config)


def test_a_mean_over_nobodys_examples_is_an_error_and_not_nan():
    first = trial("fedavg").records[0]
    with pytest.raises(MergeError, match="needs some"):
        trial("fedavg").method.merge(first.before, first.phase, [replace(u, num_examples=0) for u in first.updates])


def test_changes_are_compared_wherever_an_adapter_changes_weights():
    asked = {name for name in NAMES if isinstance(build_method(name, {}).adapter, WeightAdapter)}
    assert set(NAMES) - asked == {"codaprompt", "dualprompt", "l2p", "ncm", "ranpac", "ridge", "vpt"}
    for name in ("fedavg", "lorm", "fedex"):
        changes_are_what_the_network_adds(trial(name))  # raises NotAsked where it looks at nothing
