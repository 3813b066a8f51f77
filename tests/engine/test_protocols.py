"""Protocols of other papers: every file resolves, and its scenario is laid out on archives in the original formats."""

from pathlib import Path

import archives
import numpy as np
import pytest

from fcil.config import load_config, variant_names
from fcil.engine.comparison import cells
from fcil.engine.simulation import prepare
from fcil.registry import build_method

FOLDER = Path(__file__).parents[2] / "configs" / "protocols"
FILES = sorted(path.stem for path in FOLDER.glob("*.toml"))
TINY = ["model.backbone=vit_tiny_patch16_224", "model.weights=random", "model.image_size=16", "model.precision=fp32",
        "run.exchange=inline", "run.device=cpu", "data.unofficial=true"]  # fmt: skip
FEW = {"partition.clients": 3, "tasks.count": 2, "partition.min_samples": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    archives.cifar100(root, classes=4, each=60)
    archives.imagenet(root, "imagenet-r")
    archives.cub(root)
    for part in ("train", "val"):
        for name, content in archives.classes_of(archives.WNIDS, 6, f"{part}/").items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
    return root


def config_of(name, *overrides):
    return load_config(FOLDER / f"{name}.toml", overrides)


@pytest.mark.parametrize("name", FILES)
def test_every_row_and_point_of_a_protocol_can_be_carried_out(name, root, tmp_path):
    few = [f"{key}={value}" for key, value in FEW.items()]
    if name.startswith("glfc"):
        few += ["tasks.count=2", "method.transition=known"]  # two classes are too few for its entropy to rise by 1.2
        few += ["partition.classes_per_client=1"]
    if config_of(name).train.participants:
        few += ["train.participants=2"]
    path = FOLDER / f"{name}.toml"
    runs = cells(path, [*variant_names(path)] or [config_of(name).method.name], [0], [*TINY, f"data.root={root}", *few],
                 tmp_path)  # fmt: skip
    assert runs
    for cell in runs:
        assert cell.config.train.rounds == config_of(name).train.rounds
        census = cell.session().plan.census
        assert census.clients == 3
        assert census.train.sum(1).all()


@pytest.mark.parametrize(("name", "clients", "asked", "rounds", "tasks"), [
    ("pilora_cifar100", 30, 10, 30, 10), ("pilora_tiny-imagenet", 30, 10, 30, 10),
    ("glfc_cifar100", 30, 10, 10, 10), ("stsa_cifar100", 5, 0, 100, 10),
    ("stsa_imagenet-r", 5, 0, 100, 10), ("fedran_cifar100", 5, 0, 5, 10), ("fppl_cifar100", 10, 0, 20, 10),
    ("fppl_imagenet-r", 20, 0, 10, 20), ("fppl_cub200", 10, 0, 10, 20),
])  # fmt: skip
def test_a_protocol_has_its_papers_numbers(name, clients, asked, rounds, tasks):
    config = config_of(name)
    told = config.partition.clients, config.train.participants, config.train.rounds, config.tasks.count
    assert told == (clients, asked, rounds, tasks)


def test_pilora_has_rates_of_its_own_for_either_data_set():
    rates = [config_of(f"pilora_{name}").method.settings for name in ("cifar100", "tiny-imagenet")]
    methods = [build_method("pilora", options) for options in rates]
    assert [(m.lora_lr, m.prototype_lr) for m in methods] == [(1e-5, 2e-3), (5e-6, 5e-3)]


CIFAR, IMAGENET, PLAIN = (0.5071, 0.4867, 0.4408), (0.485, 0.456, 0.406), (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("name", "mean", "per_class"), [
    ("pilora_cifar100", CIFAR, 400), ("pilora_tiny-imagenet", CIFAR, 400),  # 80 % of 500, by the set's order
    ("stsa_cifar100", PLAIN, 0), ("stsa_imagenet-r", IMAGENET, 0),
    ("fppl_cifar100", PLAIN, 0), ("fppl_imagenet-r", PLAIN, 0), ("fppl_cub200", PLAIN, 0),
])  # fmt: skip
def test_images_are_those_of_public_code_and_normalised_by_its_numbers(name, mean, per_class):
    data = config_of(name).data
    assert (data.mean, data.train_per_class) == (mean, per_class)
    assert data.std == {CIFAR: (0.2675, 0.2565, 0.2761), IMAGENET: (0.229, 0.224, 0.225), PLAIN: (1.0,) * 3}[mean]


def test_in_glfcs_protocol_clients_share_images_and_in_fppls_some_have_nothing_of_a_task(root):
    small = [*TINY, f"data.root={root}", "tasks.count=2"]
    shared = prepare(config_of("glfc_cifar100", *small, "partition.classes_per_client=1", "method.transition=known"))
    census = shared.plan.census
    assert census.clients == 30
    assert census.train.sum() > 5 * census.distinct.sum()
    once = prepare(config_of("fppl_cifar100", *small, "partition.beta=0.05", "partition.min_samples=4"))
    assert (once.plan.census.train == 0).any()
    assert once.plan.census.train.sum() == 4 * 60


def test_fedrans_clients_know_a_fifth_of_their_labels(root):
    small = [*TINY, f"data.root={root}", "tasks.count=2", "partition.min_samples=1"]
    few, all_of_them = (
        prepare(config_of("fedran_cifar100", *small, f"tasks.label_share={share}")).plan.census.by_class
        for share in (0.2, 1.0)
    )
    np.testing.assert_array_equal(few, np.where(all_of_them, np.maximum(1, np.floor(0.2 * all_of_them + 0.5)), 0))
