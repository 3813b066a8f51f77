"""What a run has learned, as weights of a plain timm network: they answer as the run does."""

import json

import pytest
import safetensors.torch
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small import small_toml

import fcil
import fcil.model.tiny
from fcil.cli.main import main
from fcil.data.dataset import model_inputs
from fcil.engine.checkpoints import CHECKPOINTS
from fcil.engine.session import prepare
from fcil.model.backbone import load_backbone


@pytest.fixture
def trained(tmp_path):
    def train(name, settings=None, more=None):
        path = tmp_path / "some.toml"
        path.write_text(small_toml())
        method = {f"method.{key}": value for key, value in {"name": name, **(settings or {})}.items()}
        return fcil.run(path, {**method, **(more or {})}, output=tmp_path / "run")

    return train


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("fedavg", {"rank": 2}), ("lorm", {"rank": 2}), ("ties", {"rank": 2}), ("ridge", {}),
        ("fedavg", {"adapter": "full"}), ("fedavg", {"adapter": "snella", "rank": 2}),
    ],
    ids=str,
)  # fmt: skip
def test_the_exported_network_answers_as_the_run_does(trained, tmp_path, name, settings):
    run = trained(name, settings, {"train.lr": 0.01})
    out = run.export(tmp_path / "out.safetensors")
    network = load_backbone(run.config.model)
    network.head = torch.nn.Linear(network.num_features, 10)
    network.load_state_dict(load_file(out))
    session = prepare(run.config)
    data, scenario = session.worker.dataset, session.worker.scenario
    with torch.inference_mode():
        answers = network(model_inputs(data.test.images, data, run.config.model.image_size)).argmax(1).numpy()
    labels = scenario.positions[data.test.labels]
    per_task = [int((answers[labels // 5 == t] == labels[labels // 5 == t]).sum()) for t in range(2)]
    assert per_task == run.summary["correct"][-1]
    with safe_open(out, "pt") as file:
        about = file.metadata()
    assert json.loads(about["classes"]) == list(session.plan.census.classes)
    assert (about["backbone"], about["method"]) == (run.config.model.backbone, run.method)


@pytest.mark.parametrize(("backbone", "weights"), [("vit_tiny_patch16_224", "random"), ("fcil_vit_tiny", "embedded")])
def test_it_is_loaded_as_the_message_says(tmp_path, capsys, monkeypatch, backbone, weights):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "some.toml"
    path.write_text(small_toml() + f'[model]\nbackbone = "{backbone}"\nweights = "{weights}"\nimage_size = 32\n')
    assert main(["run", str(path), "--set", "method.name=ridge", "--output", "run"]) == 0
    capsys.readouterr()
    assert main(["export", "run", "--out", "out.safetensors"]) == 0
    words = " ".join(capsys.readouterr().out.split()).partition("classes: ")[2]
    names = {"timm": timm, "fcil": fcil, "safetensors": safetensors}
    exec(words, names)  # as a user copies them
    assert names["network"].head.weight.shape[0] == 10


@pytest.mark.parametrize(
    ("name", "settings"),
    [("ncm", {}), ("ridge", {"layers": [1, 2]}), ("vpt", {}), ("codaprompt", {}), ("ranpac", {"random": 20})],
    ids=str,
)
def test_what_weights_and_a_head_do_not_say_is_refused(trained, tmp_path, name, settings):
    run = trained(name, settings, {"train.lr": 0.01})
    with pytest.raises(fcil.ConfigError, match="predicts by more than the weights of fcil_vit_tiny and a"):
        run.export(tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_run_in_the_middle_of_a_task_and_a_wrong_place_are_refused(trained, tmp_path):
    run = trained("fedavg", {"rank": 2})
    with pytest.raises(fcil.ConfigError, match=r"must be a \.safetensors file in a folder that exists"):
        run.export(tmp_path / "nowhere" / "out.safetensors")
    for path in (run.folder / CHECKPOINTS).iterdir():
        path.unlink()
    with pytest.raises(fcil.ConfigError, match="has not learned a task to its end"):
        run.export(tmp_path / "out.safetensors")
