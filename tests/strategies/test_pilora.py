"""PILoRA: its objective, what stays of earlier tasks, and which prototype an image gets."""

import numpy as np
import pytest
import reference_baselines3 as literal
from sessions import batch, session
from trials import trial

from fcil.arrays import names_matching
from fcil.battery.tiny import WIDTH
from fcil.battery.trial import pictures
from fcil.merging.prototypes import reweighted
from strategies.pilora import PILoRA

METHOD = PILoRA(rank=2, pull=0.3, orthogonality=0.7, sparsity=0.2, temperature=0.5)
ALL = PILoRA(rank=2, pull=0.3, classes="all")
CODE = PILoRA(rank=2, combine="code")
LAYER = "blocks.0.attn.qkv"


@pytest.mark.parametrize("number", [1, 3])
def test_the_loss_is_the_literal_one(number):
    record = trial(METHOD).records[number]
    step = batch(session(trial(METHOD), record))
    tasks = range(record.phase.task.index + 1)
    prototypes = np.concatenate([record.broadcast.arrays[f"head.{t}.weight"] for t in tasks]).astype(float)
    features = step.features.detach().double().numpy()
    wanted = literal.pilora_loss(features, step.labels.tolist(), prototypes, 0.5, 0.3)
    own = record.broadcast.arrays[f"{LAYER}.lora_A"].astype(float)
    wanted += 0.2 * np.abs(own).sum()
    if number == 3:
        wanted += 0.7 * np.abs(own @ record.broadcast.references[f"past/task0/{LAYER}.lora_A"].T).sum()
    np.testing.assert_allclose(METHOD.loss(step).item(), wanted, rtol=1e-5)


def test_classes_to_come_take_part_where_public_code_has_them():
    """Also those that have never trained, at the places from which they begin when their task comes."""
    record = trial(ALL).records[1]
    drawn, sent = record.broadcast.references["drawn"], record.broadcast.arrays["head.0.weight"]
    step = batch(session(trial(ALL), record))
    features = step.features.detach().double().numpy()
    wanted = literal.pilora_loss(
        features, step.labels.tolist(), [*sent.astype(float), *drawn[2:].astype(float)], 1, 0.3
    )
    np.testing.assert_allclose(ALL.loss(step).item(), wanted, rtol=1e-5)
    assert drawn.shape == (4, WIDTH)
    for number, rows in ((0, drawn[:2]), (2, drawn[2:])):
        later = trial(ALL).records[number]
        np.testing.assert_array_equal(later.broadcast.arrays[f"head.{later.phase.task.index}.weight"], rows)
        np.testing.assert_array_equal(later.broadcast.references["drawn"], drawn)


def test_pairs_and_prototypes_have_rates_of_their_own():
    names = [f"{LAYER}.lora_A", f"{LAYER}.lora_B", "head.0.weight"]
    for settings, wanted in (({}, [1e-5, 1e-5, None]), ({"lora_lr": 0.0, "prototype_lr": 0.3}, [None, None, 0.3])):
        rates = PILoRA(rank=2, **settings).local(trial(METHOD).records[0].phase).lr
        matching = [[rate for pattern, rate in rates.items() if names_matching([name], (pattern,))] for name in names]
        assert [found[0] if found else None for found in matching] == wanted


def test_earlier_pairs_and_prototypes_keep_their_bits_and_pairs_add_up():
    old, new = (trial(METHOD).records[i].after for i in (1, 3))
    for name, a in old["module"].items():
        np.testing.assert_array_equal(new["past"][f"task0/{name}"], a)
    np.testing.assert_array_equal(new["head"]["head.0.weight"], old["head"]["head.0.weight"])
    deployed = METHOD.deploy(new, trial(METHOD).records[3].phase)
    changes = [state[f"{LAYER}.lora_B"].astype(float) @ state[f"{LAYER}.lora_A"] for state in
               (old["module"], new["module"], deployed)]  # fmt: skip
    np.testing.assert_allclose(changes[2], changes[0] + changes[1], atol=1e-5)
    frozen = METHOD.local(trial(METHOD).records[3].phase).frozen(trial(METHOD).records[3].broadcast.references)
    np.testing.assert_allclose(frozen[f"{LAYER}.delta"], changes[0], atol=1e-6)


def test_public_code_trains_a_pair_alone_and_deploys_the_product_of_sums():
    old, record = trial(CODE).records[1].after["module"], trial(CODE).records[3]
    assert not CODE.local(record.phase).frozen(record.broadcast.references)
    deployed, new = CODE.deploy(record.after, record.phase), record.after["module"]
    for name in old:
        np.testing.assert_array_equal(deployed[name], old[name] + new[name])


def test_the_server_weighs_prototypes_and_the_nearest_is_predicted():
    record = trial(METHOD).records[3]
    for c in range(2):
        own = np.stack([u.arrays["head.1.weight"][c] for u in record.updates]).astype(float)
        means = [u.statistics["class_sums.1"][c] / n for u in record.updates if (n := u.statistics["counts.1"][c])]
        wanted = reweighted(own, np.array(means, float), 5.0)
        np.testing.assert_allclose(record.after["head"]["head.1.weight"][c], wanted, rtol=1e-5)
    deployed, model = METHOD.deploy(record.after, record.phase), trial(METHOD).fresh_model()
    model.load(deployed)
    features = model.features(pictures(20)).detach().numpy()
    prototypes = np.concatenate([deployed[f"head.{t}.weight"] for t in (0, 1)])
    nearest = np.square(features[:, None] - prototypes).sum(2).argmin(1)
    np.testing.assert_array_equal(METHOD.scores(model, pictures(20)).argmax(1), nearest)
