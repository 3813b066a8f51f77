"""PILoRA: its objective, what stays of earlier tasks, and which prototype an image gets."""

import numpy as np
import pytest
import reference_baselines3 as literal
from sessions import batch, session
from trials import trial

from fcil.battery.trial import pictures
from fcil.merging.prototypes import reweighted
from strategies.pilora import PILoRA

METHOD = PILoRA(rank=2, pull=0.3, orthogonality=0.7, sparsity=0.2, temperature=0.5)
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
