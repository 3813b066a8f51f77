"""The paper's configurations: the settings of its table, and one step of each on data in the original format."""

from pathlib import Path

import archives
import numpy as np
import pytest

from fcil.config import load_config, load_variant, row_facts, rows_have_bases, variant_names
from fcil.data import FAMILIES
from fcil.engine.simulation import prepare
from fcil.exchange.inline import Inline
from fcil.server.loop import step
from fcil.server.plan import initial_progress

CONFIGS = Path(__file__).parents[2] / "configs"
PAPER = sorted(CONFIGS.glob("paper/*_beta*.toml"))
FIRST_OF_EACH = [
    path if path.stem.partition("_")[0] not in {p.stem.partition("_")[0] for p in PAPER[:i]}
    else pytest.param(path, marks=pytest.mark.slow)
    for i, path in enumerate(PAPER)
]  # fmt: skip
"""All rows; after the first of each data set they are slow tests."""

# As printed: data set -> betas, learning rate (of the head), ranks, rate of A, rate of B, rounds, tasks
SETTINGS = {
    "cifar100": ((0.5, 0.1, 0.05), (3e-3, 3e-4, 5e-4), (1, 16, 16), None, None, 5, 10),
    "imagenet-r": ((0.5, 0.1, 0.05), (3e-3, 1e-3, 1e-3), (2, 32, 16), None, None, 5, 10),
    "eurosat": ((1.0, 0.5, 0.2), (3e-3, 1e-3, 3e-3), (1, 1, 1), None, None, 5, 5),
    "cub200": ((1.0, 0.5, 0.2), (1e-2, 3e-2, 3e-2), (1, 1, 1), (3e-3, 1e-3, 3e-3), None, 5, 10),
    "cars196": ((1.0, 0.5, 0.2), (1e-2, 1e-2, 1e-2), (8, 8, 4), (1e-2,) * 3, (1e-3,) * 3, 10, 10),
    "imagenet-a": ((1.0, 0.5, 0.2), (1e-2, 1e-2, 1e-2), (4, 4, 4), (1e-2,) * 3, (1e-3,) * 3, 10, 10),
}


def test_there_are_three_for_each_of_six_data_sets():
    assert {p.stem for p in PAPER} == {f"{name}_beta{beta}" for name, rows in SETTINGS.items() for beta in rows[0]}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("position", range(3))
def test_settings_are_those_of_the_table(name, position):
    betas, rates, ranks, rates_a, rates_b, rounds, tasks = SETTINGS[name]
    config = load_config(CONFIGS / "paper" / f"{name}_beta{betas[position]}.toml")
    method = config.method.settings
    assert (config.data.name, config.partition.beta, config.partition.clients) == (name, betas[position], 10)
    assert (config.partition.kind, config.partition.min_samples, config.tasks.order) == ("dirichlet", 6, "natural")
    assert (config.train.lr, config.train.rounds, config.train.epochs) == (rates[position], rounds, 5)
    assert (config.train.batch, config.train.optimizer, config.train.weight_decay) == (16, "adamw", 0)
    assert (config.tasks.count, FAMILIES[name].tasks) == (tasks, tasks)
    assert config.model.backbone == "vit_base_patch16_224.augreg_in21k"
    assert (config.model.image_size, config.model.head_start) == (224, "timm")
    assert (config.method.name, method["rank"]) == ("lorm", ranks[position])
    assert method.get("lr_a") == (rates_a and rates_a[position])
    assert method.get("lr_b") == (rates_b and rates_b[position])
    assert method.get("head_gram_shrink", 0.5) == (0.3 if name == "cub200" else 0.5)
    assert not {"gram_a", "gram_b", "gram_passes", "gram_model", "train_order"} & method.keys()


PUBLISHED = {
    "cifar100_beta0.5": 86.95, "cifar100_beta0.1": 81.75, "cifar100_beta0.05": 82.76, "imagenet-r_beta0.05": 66.45,
    "eurosat_beta0.2": 81.36, "cub200_beta0.2": 60.06,
}  # fmt: skip


def test_the_table_has_every_experiment_as_its_own_file_has_it_and_the_published_figures():
    table = CONFIGS / "paper" / "table.toml"
    assert sorted(variant_names(table)) == [path.stem for path in PAPER]
    for path in PAPER:
        assert load_variant(table, path.stem) == load_config(path)
        facts = row_facts(table, path.stem)
        assert facts.published == PUBLISHED.get(path.stem)
        assert facts.tolerance == (1.2 if path.stem in PUBLISHED else None)
    printed = (CONFIGS.parent / "docs" / "paper.md").read_text()
    assert all(f" {figure:.2f} |" in printed for figure in PUBLISHED.values())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Data set -> folder with a small archive in the original format."""
    built = {}
    for name in SETTINGS:
        built[name] = tmp_path_factory.mktemp(name)
        archives.WRITE[name](built[name])
    return built


@pytest.mark.parametrize("path", FIRST_OF_EACH, ids=lambda path: path.stem)
def test_one_round_of_each_runs_on_data_in_the_original_format(path, files):
    """With a small random ViT, two clients and one task: the small archives have two to four classes."""
    overrides = [
        f'data.root="{files[path.stem.rpartition("_beta")[0]]}"', "data.unofficial=true", "tasks.count=1",
        "partition.clients=2", "partition.min_samples=0", 'model.backbone="vit_tiny_patch16_224"',
        'model.weights="random"', "model.image_size=32", 'model.precision="fp32"', "train.epochs=1",
        'run.exchange="inline"', 'run.device="cpu"',
    ]  # fmt: skip
    session = prepare(load_config(path, overrides))
    plan, events = session.plan, []
    progress = initial_progress(plan)
    for _ in range(2):
        progress = step(plan, progress, Inline(session.worker), events.append)
    assert not [e for e in events if e["event"] == "refused"]
    module = progress.state["module"]
    assert all(np.isfinite(a).all() for a in module.values())
    assert all(a.any() for n, a in module.items() if n.endswith("lora_B"))


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.toml")), ids=lambda path: path.stem)
def test_every_file_resolves_and_no_two_rows_of_a_comparison_are_the_same_run(path):
    if not rows_have_bases(path):
        load_config(path)
    rows = [load_variant(path, label) for label in variant_names(path)]
    assert all(row != other for i, row in enumerate(rows) for other in rows[:i])
