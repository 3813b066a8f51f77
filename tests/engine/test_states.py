"""Any state comes back as it was, groups without arrays and arrays without values included."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load, save

from fcil.arrays import digest, grouped, nbytes, ungrouped
from fcil.engine.checkpoints import read_checkpoint
from fcil.engine.records import Recorder
from fcil.server.plan import Progress
from strategies.fedavg import FedAvg

NAMES = st.text(st.characters(exclude_characters=":", exclude_categories=("Cs",)), max_size=6)
"""Names contain no colon, and may be anything else."""
ARRAYS = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), elements=st.floats(-8, 8, width=32)
    )
)
GROUPS = st.dictionaries(NAMES, ARRAYS, max_size=3) | st.just({})
STATES = st.dictionaries(NAMES | st.just("__metadata__"), GROUPS, max_size=4)
ODD = {"": {"": np.zeros(0, np.float32)}, "a": {}, "__metadata__": {}, "b": {"a": np.float32([1])}}


def same(left, right):
    """The same groups, names, types, shapes and bits."""
    result = [{g: {n: (a.dtype, a.shape, a.tobytes()) for n, a in arrays.items()} for g, arrays in state.items()}
            for state in (left, right)]  # fmt: skip
    return result[0] == result[1]


@given(STATES)
@example({})
@example({"": {}})
@example(ODD)
def test_a_state_survives_as_a_table_and_in_a_file(state):
    flat = ungrouped(state)
    assert same(grouped(flat), state)
    assert same(grouped(load(save({n: np.asarray(a, order="C") for n, a in flat.items()}))), state)
    assert nbytes(flat) == sum(nbytes(arrays) for arrays in state.values())


@given(STATES)
@example(ODD)
def test_a_state_survives_the_checkpoint(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("run")
    recorder = Recorder(folder)
    try:
        recorder.save(Progress(3, state, totals={"images": 1.0}))
    finally:
        recorder.close()
    (path,) = (folder / "checkpoint").glob("*.safetensors")
    back, _ = read_checkpoint(path)
    assert same(back.state, state)
    assert back.sha256() == Progress(3, state).sha256()


@given(STATES)
def test_states_without_empty_groups_have_the_digest_that_they_always_had(state):
    flat = {f"{group}:{name}": a for group, arrays in state.items() for name, a in arrays.items()}
    assert (digest(ungrouped(state)) == digest(flat)) == all(state.values())


@given(STATES)
def test_an_empty_group_is_seen_by_the_digest_and_is_no_array(state):
    """Its place is taken by nothing that a method could have put there."""
    without = {group: arrays for group, arrays in state.items() if arrays}
    assert grouped(ungrouped(state)).keys() == state.keys()
    assert len(ungrouped(state)) == len(ungrouped(without)) + sum(not arrays for arrays in state.values())
    assert all(np.isfinite(a).all() for a in ungrouped({g: {} for g in state}).values())


def test_a_run_whose_state_has_an_empty_group_is_gone_on_with(digits_config, tmp_path, monkeypatch):
    """What it was found by: a group that is filled at a task's end, read before that in a run that was stopped."""
    from fcil.engine.simulation import prepare, resume, simulate
    from fcil.exchange.inline import Inline

    begin, broadcast = FedAvg.begin, FedAvg.broadcast
    monkeypatch.setattr(FedAvg, "begin", lambda *given: {"kept": {}, **begin(*given)})
    monkeypatch.setattr(FedAvg, "broadcast", lambda self, state, at: (state["kept"], broadcast(self, state, at))[1])
    small = {"data": {"train_limit": 60, "test_limit": 20}, "method": {"name": "fedavg", "rank": 2}}

    class Stop(BaseException):
        pass

    class Stopping(Inline):
        def __call__(self, request):
            if request.phase.index == 1:
                raise Stop
            return super().__call__(request)

    session = prepare(digits_config(small), tmp_path / "run")
    with pytest.raises(Stop):
        simulate(session, tmp_path / "run", exchange=Stopping(session.worker))
    whole = simulate(prepare(digits_config(small), tmp_path / "whole"), tmp_path / "whole")
    assert simulate(resume(tmp_path / "run"), tmp_path / "run")["sha256"] == whole["sha256"]
