"""The battery catches every broken promise, with a message that says what to do, and lets good methods pass."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from own_methods import MINE, write
from toys import Anchored, NearestMean, RidgeHead

from fcil.battery import CHECKS, Trial, examine, trial_of
from fcil.errors import ConfigError
from strategies.fedavg import FedAvg

HEAD = (
    MINE
    + '''
import numpy as np
import torch
from dataclasses import replace
from fcil.arrays import weighted_mean
from fcil.method import Broadcast, ClientUpdate, Modules, Pass

CALLS = []
KEPT = {}


@dataclass(frozen=True, kw_only=True)
class Draft(LoraMethod):
    """A draft."""

'''
)
OWN_MERGE = """
    additive = False

    def merge(self, state, phase, updates):
"""


def draft(tmp_path, body):
    return trial_of(f"{write(tmp_path, 'draft.py', HEAD + body)}:Draft", {})


SCALED = """
from fcil.model.lora import Lora


class Scaled(Lora):
    def changes(self, arrays, every_parameter=False):
        return {layer: change.times(2.0) for layer, change in super().changes(arrays).items()}


@dataclass(frozen=True, kw_only=True)
class Draft(LoraMethod):
    \"\"\"A draft.\"\"\"

    @property
    def adapter(self):
        return Scaled(self.rank)
"""


def test_an_adapter_whose_changes_are_not_those_of_its_layers_is_found(tmp_path):
    """Merges would be given other weights than the clients train."""
    trial = trial_of(f"{write(tmp_path, 'scaled.py', MINE + SCALED)}:Draft", {})
    failed = failures(trial)
    assert list(failed) == ["An adapter's arrays do in the network what it says of its changes."]
    (result,) = failed.values()
    assert "make another model than its arrays" in result.message


def failures(trial):
    return {result.title: result for result in examine(trial) if result.outcome == "fails"}


BROKEN = {
    "mutates the state": (
        OWN_MERGE + """
        mean = weighted_mean([u.arrays for u in updates], [u.num_examples for u in updates])
        for name, a in state["module"].items():
            a[:] = mean[name]
        return Modules.of(state).replaced(mean)
""",
        "No call changes what it is given",
        "merge changed what it was given: state 'module'", "copy before you write", "a[:] = mean[name]",
    ),
    "mutates an update": (
        """
    def sums(self, phase, broadcast, updates):
        for u in updates:
            for a in u.arrays.values():
                a += 0.001
        return super().sums(phase, broadcast, updates)
""",
        "No call changes what it is given", "array of client 0", "a += 0.001",
    ),
    "adds to the state in place": (
        """
    def begin(self, state, phase, backbone):
        state = super().begin(state, phase, backbone)
        return state

    def deploy(self, state, phase):
        state["note"] = {"x": np.zeros(1, np.float32)}
        return super().deploy(state, phase)
""",
        "No call changes what it is given", "deploy changed what it was given: state 'note' 'x'", "def deploy",
    ),
    "mutates the references": (
        """
    def broadcast(self, state, phase):
        return Broadcast(super().broadcast(state, phase).arrays, {"ref": np.ones(2, np.float32)})

    def loss(self, step):
        step.references["ref"][0] += 1
        return step.cross_entropy()
""",
        "No call changes what it is given", "client 0's work changed what it was given: reference 'ref'",
        'step.references["ref"][0] += 1',
    ),
    "draws from numpy's global generator on the server": (
        """
    def deploy(self, state, phase):
        return {n: a + np.random.rand() for n, a in super().deploy(state, phase).items()}
""",
        "Nobody draws from the global generators", "deploy drew from np.random", "use phase.generator", "def deploy",
    ),
    "draws from torch's global generator on a client": (
        """
    def loss(self, step):
        return step.cross_entropy() * (1 + torch.rand(()))
""",
        "Nobody draws from the global generators", "client 0's work drew from torch's default generator", "def loss",
    ),
    "is seeded by the clock": (
        """
    def loss(self, step):
        return step.cross_entropy() * (1 + np.random.default_rng().random())
""",
        "A client works the same again", "client 1: array", "step.generator(purpose)", "def loss",
    ),
    "counts its calls": (
        """
    def deploy(self, state, phase):
        CALLS.append(1)
        return {n: a + len(CALLS) for n, a in super().deploy(state, phase).items()}
""",
        "The server's functions give the same bits", "deploy gave other bits the second time", "def deploy",
    ),
    "keeps momentum in the module, by the phase": (
        OWN_MERGE + """
        mean = weighted_mean([u.arrays for u in updates], [u.num_examples for u in updates])
        before = KEPT.get(phase.index - 1, 0.0)
        KEPT[phase.index] = 0.9 * before + 1.0
        return Modules.of(state).replaced({n: a + before for n, a in mean.items()})
""",
        "The server's functions give the same bits", "task 1, round 2: merge gave other bits the second time",
        "in the class or in the module", "def merge",
    ),
    "keeps momentum on itself, which is frozen but for an undecorated class": (
        """    pass


class Draft(Draft):
""" + OWN_MERGE + """
        mean = weighted_mean([u.arrays for u in updates], [u.num_examples for u in updates])
        before = getattr(self, "last", {}).get(phase.index - 1, 0.0)
        self.last = {phase.index: before + 1.0, phase.index - 1: before}
        return Modules.of(state).replaced({n: a + before for n, a in mean.items()})
""",
        "The server's functions give the same bits", "merge gave other bits the second time", "def merge",
    ),
    "sums where it means, of what trimming leaves": (
        OWN_MERGE + """
        left = updates[1:-1] if len(updates) > 2 else updates
        return Modules.of(state).replaced({n: sum(u.arrays[n] for u in left) for n in left[0].arrays})
""",
        "One client alone, or several", "8 copies of one client do not make that client's model", "def merge",
    ),
    "keeps what clients remember in the class": (
        """
    memory = {}

    def loss(self, step):
        before = self.memory.get((step.client.number, step.phase.index - 1), 0.0)
        self.memory[step.client.number, step.phase.index] = before + 1.0
        return step.cross_entropy() * (1 + before)
""",
        "A client works the same again", "client 1: array", "in the class or in the module", "def loss",
    ),
    "keeps the memory of what trains": (
        """
    def client_begin(self, client):
        for name, leaf in client.model.arrays.items():
            client.store[name] = leaf.detach().numpy()
""",
        "A run over two tasks goes through", "client 0's work raised ValueError: Client.store['",
        "is no copy but the memory of", ".numpy().copy()", "def client_begin",
    ),
    "takes labels of all tasks for the columns of one": (
        """
    def loss(self, step):
        logits = step.model.logits(step.features, (step.phase.task.index,))
        return torch.nn.functional.cross_entropy(logits, step.labels)
""",
        "A run over two tasks goes through", "task 2, round 1: client 0's work raised IndexError: Target ",
        "here 2 to 3", "take labels - task.first", "cross_entropy(logits, step.labels)",
    ),
    "has a group under a name that is taken": (
        """
    def begin(self, state, phase, backbone):
        state = super().begin(state, phase, backbone)
        return {**state, "start": dict(state["module"])}
""",
        "A run over two tasks goes through", "task 1, round 1: the state has a group 'start', a name that is taken",
        "another name", "def begin",
    ),
    "merges to a group under a name that is taken": (
        OWN_MERGE + """
        return {**state, "trained": dict(state["module"])}
""",
        "A run over two tasks goes through", "the state has a group 'trained'", "def merge",
    ),
    "keeps a number in the state": (
        OWN_MERGE + """
        return {**state, "count": {"clients": 3.0}}
""",
        "A run over two tasks goes through", "round 1: merge gave a value of type float in count", "np.array([3.0])",
        "def merge",
    ),
    "merges to arrays without groups": (
        OWN_MERGE + """
        return updates[0].arrays
""",
        "A run over two tasks goes through", "merge gave a value of type ndarray in ", "{group: {name: array}}",
        "def merge",
    ),
    "merges to a list": (
        OWN_MERGE + """
        return [u.arrays for u in updates]
""",
        "A run over two tasks goes through", "merge gave a value of type list in the place of the state", "def merge",
    ),
    "begins with a number": (
        """
    def begin(self, state, phase, backbone):
        return {**super().begin(state, phase, backbone), "count": {"tasks": 1}}
""",
        "A run over two tasks goes through", "begin gave a value of type int in count", "def begin",
    ),
    "loses its head rows": (
        OWN_MERGE + """
        return {"module": state["module"]}
""",
        "A run over two tasks goes through", "the state has no head.0.weight", "`merge` returns all groups",
    ),
    "says additive of a median": (
        """
    @property
    def additive(self):
        return True

    def merge(self, state, phase, updates):
        return Modules.of(state).replaced({
            n: np.median([u.arrays[n] for u in updates], 0) for n in updates[0].arrays
        })
""",
        "Merging the sums of groups of clients", "merge_sums of all clients' sums is not what merge gives: array",
        "let `additive` return False", "def merge",
    ),
    "has sums that do not add": (
        """
    def sums(self, phase, broadcast, updates):
        sums = super().sums(phase, broadcast, updates)
        return {n: a / len(updates) ** 0.5 if n.startswith("head") else a for n, a in sums.items()}
""",
        "Merging the sums of groups", "sums of two groups of clients do not add up", "without means", "def sums",
    ),
    "trains what it does not declare": (
        """
    def trains(self, phase):
        return ("*lora_B",)

    def loss(self, step):
        for name, a in step.model.arrays.items():
            if name.endswith("lora_A"):
                a.mul_(0.9)
        return step.cross_entropy()
""",
        "Exactly what `local` declares trains", "lora_A changed while the client trained", "Local.trains", "def loss",
    ),
    "writes to the backbone": (
        """
    def client_begin(self, client):
        client.model.network.blocks[0].norm1.weight.mul_(1.01)
""",
        "No call changes what it is given", "the weights of the frozen backbone have changed", "def client_begin",
    ),
    "declares what is not there": (
        """
    def trains(self, phase):
        return ("*lora_C",)
""",
        "A run over two tasks goes through", "`local` names '*lora_C', but the broadcast has no such array",
    ),
    "has a loss without a gradient": (
        """
    def loss(self, step):
        return 0 * step.cross_entropy()
""",
        "Exactly what `local` declares trains", "nothing moved", "no gradient", "def loss",
    ),
    "merges to other shapes": (
        OWN_MERGE + """
        mean = weighted_mean([u.arrays for u in updates], [u.num_examples for u in updates])
        return Modules.of(state).replaced({n: np.tile(a, 2) if n == "head.0.bias" else a for n, a in mean.items()})
""",
        "Over the rounds of a task", "array head.0.bias was ((2,), 'float32') in the broadcast, and is ((4,), 'float",
        "def merge",
    ),
    "merges to integers": (
        OWN_MERGE + """
        return {**state, "count": {"clients": np.array([len(updates)])}}
""",
        "Over the rounds of a task", "count clients: type int64; states and broadcasts hold float32 or float64",
        "def merge",
    ),
    "merges to NaN": (
        OWN_MERGE + """
        return {**state, "odd": {"x": np.array([0.0, np.nan])}}
""",
        "Over the rounds of a task", "odd x: 1 of 2 values are NaN or infinite", "def merge",
    ),
    "trains to NaN": (
        """
    def loss(self, step):
        return step.cross_entropy() * float("nan")
""",
        "Every client's reply is what the server expects", "client 0: array", "NaN or infinite", "def loss",
    ),
    "crashes in the loss": (
        """
    def loss(self, step):
        return step.cross_entropy() + step.constant("anchor")
""",
        "A run over two tasks goes through", "task 1, round 1: client 0's work raised KeyError: 'anchor'",
        'step.constant("anchor")',
    ),
    "crashes in the second task": (
        OWN_MERGE + """
        if phase.task.index:
            raise ValueError("no more")
        return state
""",
        "A run over two tasks goes through", "task 2, round 1: merge raised ValueError: no more",
        'raise ValueError("no more")',
    ),
    "depends on the order": (
        OWN_MERGE + """
        return Modules.of(state).replaced(updates[0].arrays)
""",
        "The order of clients does not matter", "in reverse order merge gives something else: array", "def merge",
    ),
    "counts clients": (
        OWN_MERGE + """
        return Modules.of(state).replaced({
            n: sum(u.arrays[n].astype(np.float64) for u in updates) / len(updates) for n in updates[0].arrays
        })
""",
        "A client without examples", "num_examples = 0 changes the merge", "weight what clients send", "def merge",
    ),
    "damps without a word": (
        """
    def merge_sums(self, state, phase, sums):
        return super().merge_sums(state, phase, {n: a if n == "examples" else 0.5 * a for n, a in sums.items()})
""",
        "One client alone", "one client alone do not make that client's model", "`is_mean` return False",
        "def merge_sums",
    ),
    "has names with colons": (
        """
    def begin(self, state, phase, backbone):
        return {**super().begin(state, phase, backbone), "a:b": {"x": np.zeros(1, np.float32)}}
""",
        "A state survives", "a:b: x: a colon",
    ),
    "keeps lists": (
        """
    def client_end(self, client):
        client.store["seen"] = [1, 2]
""",
        "Clients work on with the same bits", "client 0 keeps 'seen', a list: a store holds NumPy", "def client_end",
    ),
    "keeps what it draws without a seed": (
        """
    def client_end(self, client):
        client.store["kept"] = np.random.default_rng().random(3)
""",
        "A client works the same again", "kept array kept has other bits the second time",
    ),
    "keeps what cannot be written": (
        """
    def client_end(self, client):
        client.store["seen"] = np.array(["a"], object)
""",
        "Clients work on with the same bits", "cannot be written: seen (object)",
    ),
    "deploys half": (
        """
    def deploy(self, state, phase):
        missing = "head.0" if phase.task.index else "none"
        return {n: a for n, a in super().deploy(state, phase).items() if not n.startswith(missing)}
""",
        "The deployed arrays", "scores of 5 images are (5, 2), not (5, 4)", "def deploy",
    ),
    "deploys what no model knows": (
        """
    def deploy(self, state, phase):
        return {**super().deploy(state, phase), "other": np.zeros(1, np.float32)}
""",
        "The deployed arrays", "evaluating what is deployed raised KeyError", "def deploy",
    ),
    "scores a batch as a whole": (
        """
    def scores(self, model, images):
        scores = super().scores(model, images)
        return scores - scores.mean(0)
""",
        "The deployed arrays", "depend on its neighbours in the batch", "def scores",
    ),
    "has a setting without a text": (
        """    strength: float = 1.0
""",
        "Settings have defaults", "setting strength: no text; annotate it",
    ),
    "has a setting without a default": (
        """    strength: Annotated[float, Option("of something")]
""",
        "Settings have defaults", "setting strength: needs a default",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_method_that(tmp_path, what):
    body, title, *parts = BROKEN[what]
    trial = draft_with_defaults(tmp_path, body) if "without a default" in what else draft(tmp_path, body)
    failed = failures(trial)
    result = next((r for t, r in failed.items() if t.startswith(title)), None)
    assert result is not None, {t: r.message for t, r in failed.items()}
    *words, last = parts
    lines = (tmp_path / "draft.py").read_text().splitlines()
    if last.strip().split()[0] in ("def", "raise") or ("=" in last and last in "\n".join(lines)) or "step." in last:
        file, _, line = result.place.rpartition(":")
        assert file == str(tmp_path / "draft.py")
        near = lines[int(line) - 1 : int(line) + 1]  # a property begins with its decorator
        assert any(last in each for each in near), near
    else:
        words.append(last)
    for word in words:
        assert word in result.message


@dataclass(frozen=True, kw_only=True)
class Replay(FedAvg):
    """Each client keeps two of its samples in every phase, and trains on all that it has kept beside every batch."""

    def loss(self, step):
        old = step.store.get("samples", np.zeros(0, np.int64))
        replayed = step.model.features(step.client.images(old)).square().mean() if len(old) else 0.0
        return super().loss(step) + 0.1 * replayed

    def client_end(self, client):
        old = client.store.get("samples", np.zeros(0, np.int64))
        client.store["samples"] = np.concatenate([old, client.generator("kept").choice(client.samples, 2)])


def draft_with_defaults(tmp_path, body):
    """A method that cannot be built without a value."""
    from fcil.registry import build_method

    path = write(tmp_path, "draft.py", HEAD + body)
    return Trial(build_method(f"{path}:Draft", {"strength": 1.0, "rank": 2}))


def test_a_method_that_is_no_dataclass_of_its_own_has_no_settings(tmp_path):
    source = MINE.replace("@dataclass(frozen=True, kw_only=True)\n", "")
    (result,) = failures(trial_of(str(write(tmp_path, source=source)), {})).values()
    assert "pull: no setting yet" in result.message
    assert "@dataclass(frozen=True, kw_only=True)" in result.message


def test_a_method_without_a_docstring_is_told(tmp_path):
    source = MINE.replace('    """Averages pairs, like many others."""\n', "")
    (result,) = failures(trial_of(str(write(tmp_path, source=source)), {})).values()
    assert "no docstring" in result.message


@pytest.mark.parametrize(
    "method", [Anchored(rank=2, strength=1.0), Replay(rank=2), RidgeHead(), NearestMean(), FedAvg(rank=2)]
)
def test_good_methods_pass(method):
    failed = {t: r for t, r in failures(Trial(method)).items() if not t.startswith("Settings")}  # toys have no texts
    assert failed == {}


def test_a_good_file_passes_and_what_is_not_promised_is_not_asked(tmp_path):
    results = list(examine(trial_of(str(write(tmp_path)), {})))
    assert len(results) == len(CHECKS)
    assert [r.outcome for r in results].count("holds") == len(CHECKS) - 1
    assert [r.message for r in results if r.outcome == "not asked"] == ["clients keep nothing"]
    assert all(r.title.endswith(".") and r.seconds >= 0 for r in results)


def test_what_is_kept_on_clients_is_asked_of_those_that_keep_it():
    (kept,) = [r for r in examine(Trial(Replay(rank=2))) if r.title.startswith("Clients work on")]
    assert kept.outcome == "holds"


def test_a_server_optimiser_is_no_mean_and_is_not_asked(tmp_path):
    trial = trial_of("fedavg", {"server": "momentum", "server_lr": 0.5})
    (copies,) = [r for r in examine(trial) if r.title.startswith("One client alone")]
    assert copies.outcome == "not asked"


def test_after_a_run_that_broke_off_the_rest_is_not_reached(tmp_path):
    outcomes = [r.outcome for r in examine(draft(tmp_path, BROKEN["crashes in the loss"][0]))]
    assert outcomes.count("fails") == 1
    assert outcomes.count("not reached") >= 10


def test_settings_that_do_not_fit_the_tiny_backbone_are_told_before():
    with pytest.raises(ConfigError, match=r"between 1 and 32.*2 blocks of width 32.*--set rank=2"):
        trial_of("fedavg", {"rank": 100})


def test_classes_made_on_the_way_are_tried_out_too():
    @dataclass(frozen=True, kw_only=True)
    class Local(FedAvg):
        """Made in a function."""

    assert failures(Trial(Local(rank=2))) == {}


GUIDE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"
IN_GUIDE = [
    block for block in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.M | re.S) if "@dataclass" in block
]


@pytest.mark.parametrize("source", IN_GUIDE, ids=lambda source: re.search(r"class (\w+)", source)[1])
def test_the_methods_of_the_guide_pass(tmp_path, source):
    failed = failures(trial_of(str(write(tmp_path, source=source)), {}))
    assert failed == {}
