"""The code in the documentation is executed."""

import ast
import re
import runpy
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fcil.battery import CHECKS, NotAsked, trial_of
from fcil.client.settings import Train
from fcil.client.store import ClientStore
from fcil.config import Config, MethodChoice
from fcil.data import Data
from fcil.engine.simulation import prepare
from fcil.errors import ConfigError
from fcil.exchange.inline import Inline
from fcil.exchange.worker import Worker
from fcil.method import ClientUpdate
from fcil.model.backbone import Model, describe_backbone
from fcil.options import describe
from fcil.registry import method_class
from fcil.scenario.partition import Partition
from fcil.scenario.tasks import Tasks
from fcil.server.loop import ask, run
from fcil.server.plan import initial_progress, make_plan
from strategies.fedavg import FedAvg

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDE = ROOT / "docs" / "adding-a-method.md"
PYTHON = ROOT / "docs" / "python.md"
BASELINES = ROOT / "docs" / "baselines.md"
OTHERS = {"fedavg", "rolora", "lorm", "lorm+ranpac", "ncm", "ridge", "ranpac", "stsa-e", "joint", "sequential"}
"""Rows of the comparison of baselines that are described elsewhere, or with another row."""
CONFIG = Config(
    data=Data(train_limit=80, test_limit=60),
    tasks=Tasks(count=2),
    model=Model(image_size=16),
    partition=Partition(clients=2, min_samples=1),
    train=Train(rounds=1, epochs=2),
    method=MethodChoice("fedavg", {"rank": 2}),
)
EXAMPLES = ("FedProx", "Median", "EWC", "Replay", "BitFit", "FedNova")
"""The classes of the guide's examples."""


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def source_of(name):
    return next(block for block in blocks(GUIDE, "python") if f"class {name}(" in block)


def defines_a_method(block):
    classes = [node for node in ast.parse(block).body if isinstance(node, ast.ClassDef)]
    return any("Logger" not in map(ast.unparse, node.bases) for node in classes)


@pytest.fixture
def written(tmp_path):
    """Class in the guide -> the method's name in settings, of a file that holds the example as it is printed."""

    def write(name, source=""):
        path = tmp_path / f"{name.lower()}{'_changed' if source else ''}.py"
        path.write_text(source or source_of(name))
        return f"{path}:{name}"

    return write


@pytest.fixture
def example(written):
    """Class in the guide -> that class, found by the registry in a file of its own."""
    return lambda name, source="": method_class(written(name, source))


def planned(method, config=CONFIG):
    worker = Worker(config, method)
    return make_plan(config, method, worker.census, describe_backbone(config.model)), worker


def final(method, config=CONFIG, store=None, saved=None, start=None):
    """The progress of a whole run, on from `start` if given."""
    plan, worker = planned(method, config)
    worker = replace(worker, store=store)
    progress = start or initial_progress(plan)
    return run(plan, progress, Inline(worker), lambda event: None, (saved if saved is not None else []).append)


def same_weights(one, other):
    for group in ("module", "head"):
        assert one.state[group].keys() == other.state[group].keys()
        for name, a in one.state[group].items():
            np.testing.assert_array_equal(a, other.state[group][name], err_msg=name)
    return True


# ---- the guide's six examples ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_says_what_it_is(name, example):
    source, method = source_of(name), example(name)
    assert len(source.splitlines()) < 60
    assert ast.get_docstring(ast.parse(source))
    assert all(option.option.help for option in describe(method))
    assert all(vars(method)[f].__doc__ for f in vars(method) if callable(vars(method)[f]) and not f.startswith("_"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_keeps_the_contract(name, written):
    trial, asked = trial_of(written(name), {}), set()
    for check in CHECKS:
        try:
            check(trial)
            asked.add(check.__name__)
        except NotAsked:
            pass
    assert ("stores_survive_storage" in asked) == (name == "Replay")
    assert ("additive_merges_add" in asked) == (name != "Median")
    assert not trial.watch.draws


@pytest.mark.parametrize(("name", "off"), [("FedProx", "mu"), ("EWC", "strength"), ("Replay", "size")])
def test_an_example_at_strength_zero_is_fedavg_bit_for_bit_and_another_one_is_not(name, off, example):
    method = example(name)
    config = replace(CONFIG, train=Train(rounds=2, epochs=1))
    plain, without, on = (final(m, config) for m in (FedAvg(rank=2), method(rank=2, **{off: 0}), method(rank=2)))
    assert same_weights(plain, without)
    assert on.sha256() != without.sha256()


def test_ewc_is_fedavg_in_the_first_task_and_keeps_a_strong_anchor_in_the_second(example):
    method, saved, plain = example("EWC"), [], []
    free = final(method(rank=2, strength=0.0), saved=saved)
    strong = final(method(rank=2, strength=1e6))
    final(FedAvg(rank=2), saved=plain)
    assert same_weights(plain[0], saved[1])  # after the first task: a round, and here a report too
    anchor = {n.removeprefix("anchor/"): a for n, a in saved[1].state["ewc"].items() if n.startswith("anchor/")}
    moved = [sum(np.abs(p.state["module"][n] - a).sum() for n, a in anchor.items()) for p in (free, strong)]
    assert moved[1] < 0.5 * moved[0]


def test_ewc_keeps_the_anchor_and_the_running_fisher(example):
    gamma, saved, alone = 0.25, [], []
    method = example("EWC")
    final(method(rank=2, gamma=gamma, strength=0.0), saved=saved)
    final(method(rank=2, gamma=0.0, strength=0.0), saved=alone)
    ends = [saved[1].state, saved[3].state]
    for name, a in ends[1]["module"].items():
        np.testing.assert_array_equal(ends[1]["ewc"][f"anchor/{name}"], a)
        first, second = (ends[0]["ewc"][f"fisher/{name}"], alone[3].state["ewc"][f"fisher/{name}"])
        np.testing.assert_allclose(ends[1]["ewc"][f"fisher/{name}"], gamma * first + second, rtol=1e-5)
        assert (first >= 0).all()


def test_the_median_is_that_of_every_entry_and_one_client_cannot_drag_it(example):
    method = example("Median")(rank=2)
    plan, _ = planned(method)
    request = ask(plan, initial_progress(plan))
    rng, start = np.random.default_rng(0), request.broadcast.arrays
    replies = [{name: a + rng.normal(size=a.shape).astype("f4") for name, a in start.items()} for _ in range(3)]
    replies.append({name: np.full_like(a, 1e30) for name, a in start.items()})
    counts = (5, 1, 900, 0)
    updates = [ClientUpdate(i, 0, n, a) for i, (n, a) in enumerate(zip(counts, replies, strict=True))]
    merged = method.broadcast(method.merge(request.state, request.phase, updates), request.phase).arrays
    name = "head.0.weight"
    for place in np.ndindex(start[name].shape):
        assert merged[name][place] == sorted(reply[name][place] for reply in replies[:3])[1]
    updates[3] = replace(updates[3], num_examples=10**6)
    dragged = method.broadcast(method.merge(request.state, request.phase, updates), request.phase).arrays[name]
    assert np.abs(dragged).max() < 10
    assert final(method, replace(CONFIG, partition=Partition(clients=3, min_samples=1))).position == 2


def test_a_median_without_a_word_on_additive_is_refused_and_with_it_is_not_summed_far_away(example, written):
    choice = MethodChoice(written("Median"), {})
    with pytest.raises(ConfigError, match="needs the clients' single updates"):
        prepare(replace(CONFIG, method=choice, run=replace(CONFIG.run, aggregate_on_worker=True)))
    silent = re.sub(r"    @property\n    def additive.*?return False\n\n", "", source_of("Median"), flags=re.DOTALL)
    with pytest.raises(ConfigError, match="Median: takes its `merge` of Median and its `additive` of Averaging"):
        example("Median", silent + "\n")


def test_a_buffer_is_full_balanced_and_of_the_clients_own_samples(example, tmp_path):
    config = replace(CONFIG, train=Train(rounds=2, epochs=1))
    method, store = example("Replay")(rank=2, size=12), ClientStore(tmp_path / "clients")
    final(method, config, store)
    _, worker = planned(method, config)
    labels = worker.dataset.train.labels
    for client in range(2):
        parts = [parts[client] for parts in worker.scenario.parts]
        for end, held in ((2, parts[0]), (4, np.concatenate(parts))):  # the phases before which a task has ended
            buffer = store.read(client, end)["buffer"]
            assert len(buffer) == len(set(buffer.tolist())) == min(12, len(held))
            assert set(buffer.tolist()) <= set(held.tolist())
            kept, known = (np.bincount(labels[of], minlength=10) for of in (buffer, held))
            assert all(kept[c] == known[c] or kept[c] >= kept.max() - 1 for c in range(10) if known[c])


def test_a_buffer_survives_a_resume(example, tmp_path):
    config = replace(CONFIG, train=Train(rounds=2, epochs=1))
    method, saved = example("Replay")(rank=2), []
    whole = final(method, config, ClientStore(tmp_path / "a"), saved)
    for start in saved[:-1]:  # as left by a run that was killed in one of the phases after it
        assert final(method, config, ClientStore(tmp_path / "a"), start=start).sha256() == whole.sha256()
    assert final(method, config, ClientStore(tmp_path / "empty"), start=saved[1]).sha256() != whole.sha256()


def test_old_head_rows_move_where_there_is_something_to_replay(example):
    config = replace(CONFIG, train=Train(rounds=2, epochs=1))
    saved = []
    last = final(example("Replay")(rank=2), config, saved=saved)
    assert not np.array_equal(saved[1].state["head"]["head.0.weight"], last.state["head"]["head.0.weight"])


def replies_to(request, steps, counts):
    """Updates with random arrays, of clients that took so many steps."""
    rng, start = np.random.default_rng(0), request.broadcast.arrays
    for client, (t, n) in enumerate(zip(steps, counts, strict=True)):
        arrays = {name: (a + rng.normal(size=a.shape)).astype("f4") for name, a in start.items()}
        yield ClientUpdate(client, 0, n, arrays, {"steps": np.array(t, np.float64)})


@pytest.mark.parametrize(
    ("steps", "counts"), [((3, 1, 12), (5, 40, 1)), ((1, 1, 1), (1, 2, 3)), ((7, 2, 5), (9, 0, 4))]
)
def test_fednova_is_that_of_its_paper_number_by_number(steps, counts, example):
    """x - tau_eff sum_i p_i d_i with d_i = (x - x_i) / tau_i, tau_eff = sum_i p_i tau_i, p_i = n_i / n; lr cancels."""
    method = example("FedNova")(rank=2)
    plan, _ = planned(method)
    request = ask(plan, initial_progress(plan))
    updates = list(replies_to(request, steps, counts))
    merged = method.broadcast(method.merge(request.state, request.phase, updates), request.phase).arrays
    shares = [n / sum(counts) for n in counts]
    effective = sum(p * t for p, t in zip(shares, steps, strict=True))
    for name, x in request.broadcast.arrays.items():
        expected = x.astype(np.float64)
        for update, p, t in zip(updates, shares, steps, strict=True):
            expected = expected - effective * p * (x.astype(np.float64) - update.arrays[name]) / t
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-6)


def test_fednova_is_fedavg_where_all_take_equally_many_steps_and_another_method_elsewhere(example):
    method, plain = example("FedNova")(rank=2), FedAvg(rank=2)
    plan, _ = planned(method)
    request = ask(plan, initial_progress(plan))
    for steps, equal in (((4, 4), True), ((4, 8), False)):
        updates = list(replies_to(request, steps, (6, 10)))
        ours, theirs = (m.merge(request.state, request.phase, updates)["module"] for m in (method, plain))
        assert all(np.allclose(ours[n], a, rtol=1e-5, atol=1e-6) for n, a in theirs.items()) == equal


def test_fednovas_clients_count_their_steps_and_their_sums_may_be_taken_far_away(example):
    method = example("FedNova")(rank=2)
    config = replace(CONFIG, train=Train(rounds=1, epochs=3, batch=7, optimizer="sgd", lr=0.01))
    plan, worker = planned(method, config)
    request = ask(plan, initial_progress(plan))
    for client, n in request.num_examples.items():
        update = worker.work(request.phase, request.broadcast, client)
        assert update.statistics["steps"] == 3 * -(-n // 7)
    far_away = replace(config, run=replace(config.run, aggregate_on_worker=True))
    one, other = final(method, config), final(method, far_away)
    for name, a in one.state["module"].items():
        np.testing.assert_allclose(a, other.state["module"][name], rtol=1e-5, atol=1e-6)


# ---- all pages -------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to work in, where `configs/quickstart.toml` is a run of seconds."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.toml").write_text(
        f'base = "{ROOT / "configs" / "quickstart.toml"}"\n'
        "data = {train_limit = 120, test_limit = 60}\ntasks = {count = 2}\nmodel = {image_size = 16}\n"
        "partition = {clients = 2, min_samples = 1}\ntrain = {rounds = 1, epochs = 1}\n"
        'run = {exchange = "inline"}\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_other_python_blocks_run(page, elsewhere):
    names = {"__name__": "docs"}  # a page's blocks build on each other
    for block in blocks(page, "python"):
        if page == PYTHON or not defines_a_method(block):
            exec(compile(block, str(page), "exec"), names)
    assert page.read_text().startswith("# ")


def test_the_example_study_runs_and_is_a_notebook_in_the_percent_format(elsewhere, capsys):
    path = ROOT / "docs" / "examples" / "first_study.py"
    runpy.run_path(str(path))
    assert "drawn: " in capsys.readouterr().out
    assert (elsewhere / "runs" / "first-study" / "skew.png").stat().st_size > 5_000
    first, *cells = re.split(r"^# %%", path.read_text(), flags=re.MULTILINE)
    assert (first, {cell.partition("\n")[0] for cell in cells}) == ("", {"", " [markdown]"})
    for cell in cells:  # text is commented out, code is not
        kind, _, body = cell.partition("\n")
        lines = [line for line in body.splitlines() if line]
        assert all(line.startswith("#") for line in lines) == (kind == " [markdown]"), cell


def test_the_page_of_baselines_says_of_each_what_was_changed_what_public_code_does_and_what_to_expect():
    """And has a section for every method that the comparison of baselines has beside bounds, LoRM and closed forms."""
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", BASELINES.read_text(), re.MULTILINE | re.DOTALL))
    for title, text in sections.items():
        words = " ".join(text.split())
        assert all(word in words for word in ("Public code", "To expect: ", "Kept: ")), title
        assert re.search(r"Changed(?: besides)?: ", words), title
        assert re.search(r"\bSent\b[^.:]*: ", words), title
    names = {re.sub(r"[^a-z0-9]", "", title.split()[0].lower().replace("++", "pp")) for title in sections}
    rows = set(tomllib.loads((ROOT / "configs/comparison/baselines_digits.toml").read_text())["compare"])
    assert rows - OTHERS == names


def test_commands_in_the_docs_name_existing_subcommands_and_settings():
    from fcil.cli.main import _parser
    from fcil.config import grid, load_config, load_variant, rows_have_bases, variant_names
    from fcil.registry import build_method

    seen = swept = 0
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(r"^(?:\.venv/bin/)?(fcil [a-z]+.*)$", text, re.MULTILINE):
            words = shlex.split(line, comments=True)[1:]
            if any(re.search(r"\w\.py\b", word) for word in words):
                continue  # a file of the reader's
            args = _parser().parse_args(words)
            seen += 1
            of_a_file = args.command in ("run", "compare") and args.config.suffix == ".toml"
            of_a_file = of_a_file and args.config.parts[0] != "runs"  # what an earlier command has made
            if of_a_file and "fedprox" not in line:
                path = ROOT / args.config
                labels = variant_names(path) if rows_have_bases(path) else []
                for config in [load_variant(path, n, args.set) for n in labels] or [load_config(path, args.set)]:
                    build_method(config.method.name, config.method.settings)
            for point in grid(ROOT / args.config, args.set, args.sweep) if getattr(args, "sweep", ()) else ():
                for name in args.methods:
                    config = load_variant(ROOT / args.config, name, args.set, point.overrides)
                    build_method(config.method.name, config.method.settings)
                    swept += 1
    assert seen >= 5
    assert swept >= 8
