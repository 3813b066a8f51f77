"""Features that are kept: the same bits as computed ones, noticed where they are damaged, and only where allowed."""

import numpy as np
import pytest
import torch

from fcil.engine.session import prepare
from fcil.engine.simulation import simulate
from fcil.errors import RunError
from fcil.exchange.shared import Features, Shared
from fcil.method import TOKENS
from fcil.model.feature_cache import FEW, FeatureCache, Table, is_independent


class Network:
    """Features that tell which image they are of; counts the images that it is given."""

    def __init__(self, dependent=False):
        self.images, self.dependent = 0, dependent

    def __call__(self, images):
        self.images += len(images)
        x = images.flatten(1)[:, :1]
        return torch.cat([x, x * 2, x * 0 + len(images) if self.dependent else x], 1)


def pictures(samples):
    return torch.tensor(samples, dtype=torch.float32).view(-1, 1, 1, 1) + 0.5


def cache_in(folder, **settings):
    return FeatureCache(
        folder, "a" * 40, {"train": 50, "test": 20}, **{"share": 0.0, "tested": {"a" * 40: 64}, **settings}
    )


def ask(cache, samples, network, part="train", tokens=""):
    return cache.features(part, np.array(samples), tokens, pictures(samples), network)


def test_what_depends_on_the_batch_is_recognised_and_never_kept(tmp_path):
    assert is_independent(pictures(range(8)), Network())
    assert is_independent(pictures([3]), Network())
    assert not is_independent(pictures(range(8)), Network(dependent=True))
    assert not is_independent(pictures(range(8)), lambda x: x.flatten(1) + torch.arange(len(x)).view(-1, 1)), "by place"
    cache = FeatureCache(tmp_path, "a", {"train": 50})
    for _ in range(2):
        assert (ask(cache, [1, 2, 3], Network(dependent=True))[:, 2] == 3.5 * 0 + 3).all()
    assert not any(tmp_path.iterdir())
    assert cache.found == 0


def test_each_image_is_computed_once_in_whatever_batches_it_is_asked_for(tmp_path):
    network, cache = Network(), cache_in(tmp_path)
    torch.testing.assert_close(ask(cache, [4, 2, 9], network), network(pictures([4, 2, 9])), rtol=0, atol=0)
    network.images = 0
    torch.testing.assert_close(ask(cache, [9, 7, 4, 0], network)[:, 0], torch.tensor([9.5, 7.5, 4.5, 0.5]))
    assert network.images == 2
    again = cache_in(tmp_path)  # in another process, say
    torch.testing.assert_close(ask(again, [0, 2, 4, 7, 9], network)[:, 0], torch.tensor([0.5, 2.5, 4.5, 7.5, 9.5]))
    assert network.images == 2
    assert (cache.found, again.found) == (0, 5), "its own are nobody else's"
    ask(again, [0], network, part="test")
    ask(again, [0], network, tokens="b" * 40)
    assert network.images == 4, "other images, and other tokens"
    other = FeatureCache(tmp_path, "c" * 40, {"train": 50}, share=0.0, tested={"c" * 40: 64})
    ask(other, [0], network)
    assert network.images == 5, "another network"


@pytest.mark.parametrize("damage", ["a value", "no checksums", "cut off", "no description"])
def test_damaged_files_are_noticed_and_their_features_computed_again(tmp_path, damage):
    network = Network()
    ask(cache_in(tmp_path), [1, 2], network)
    (folder,) = tmp_path.iterdir()
    values, sums = folder / "features.f32", folder / "checksums.u32"
    if damage == "a value":
        content = bytearray(values.read_bytes())
        content[1 * 3 * 4] ^= 1
        values.write_bytes(bytes(content))
    elif damage == "no checksums":
        sums.write_bytes(bytes(len(sums.read_bytes())))
    elif damage == "cut off":
        values.write_bytes(values.read_bytes()[:13])
    else:
        (folder / "about.json").write_text("{")
    network.images = 0
    torch.testing.assert_close(ask(cache_in(tmp_path), [1, 2], network)[:, 0], torch.tensor([1.5, 2.5]))
    assert network.images == (1 if damage == "a value" else 2)
    ask(cache_in(tmp_path), [1, 2], network)
    assert network.images == (1 if damage == "a value" else 2)


def test_a_row_of_zeros_is_not_taken_for_one_that_is_missing_nor_the_other_way_round(tmp_path):
    table = Table.create(tmp_path / "t", 3, 2)
    table.write(np.array([1]), np.zeros((1, 2), np.float32))
    assert table.read(np.arange(3))[1].tolist() == [False, True, False]


def test_a_share_of_the_batches_is_computed_all_the_same_and_some_images_of_the_first_in_any_case(tmp_path):
    network, batches = Network(), np.arange(50).reshape(25, 2)
    ask(cache_in(tmp_path), list(range(50)), network)
    network.images = 0

    def all_asked():
        cache, before = cache_in(tmp_path, share=0.25), network.images
        for batch in batches:
            ask(cache, batch, network)
        return network.images - before

    computed = all_asked()
    assert 2 <= computed <= 30
    assert all_asked() == computed, "by what they are, not by when they come"
    wrong = cache_in(tmp_path, share=0.01)
    with pytest.raises(RunError, match="other bits"):
        ask(wrong, [1], lambda x: Network()(x) + 1)
    ask(cache_in(tmp_path), [1], network, part="test")
    partly = cache_in(tmp_path, share=0.01)
    with pytest.raises(RunError, match="other bits"):
        ask(partly, [1, 2], lambda x: Network()(x) + 1, part="test")


def shifted(x):
    return Network()(x) + 1


def test_a_batch_is_compared_once_in_a_process_and_a_few_images_of_each_tables_first_in_every_run(tmp_path):
    network, compared = Network(), set()
    for part in ("train", "test"):
        ask(cache_in(tmp_path), list(range(20)), network, part=part)
    for images_expected in (20 + 20, FEW + FEW, FEW + FEW):
        cache, network.images = cache_in(tmp_path, share=1.0, compared=compared), 0
        ask(cache, list(range(20)), network)
        ask(cache, list(range(20)), network, part="test")
        assert network.images == images_expected
    of_run = cache_in(tmp_path, share=1.0, compared=compared)
    ask(of_run, list(range(20)), network)
    with pytest.raises(RunError, match="other bits"):  # whatever was found right of another part
        ask(of_run, list(range(20)), shifted, part="test")
    network.images = 0
    ask(cache_in(tmp_path, share=0.0), list(range(20)), network)
    assert network.images == 0, "none where nothing is to be compared"


def test_a_fault_stops_every_run_that_goes_on_all_the_same(tmp_path):
    ask(cache_in(tmp_path), list(range(20)), Network())
    compared = set()
    cache = cache_in(tmp_path, share=1.0, compared=compared)
    for _ in range(3):
        with pytest.raises(RunError, match="other bits"):
            ask(cache, list(range(20)), shifted)
        with pytest.raises(RunError, match="other bits"):
            ask(cache_in(tmp_path, share=0.01, compared=compared), list(range(20)), shifted)
    assert not compared


def test_what_a_run_has_computed_itself_is_not_compared_and_uses_up_no_check(tmp_path):
    network, compared = Network(), set()
    cache = cache_in(tmp_path, share=1.0, compared=compared)
    for _ in range(2):
        ask(cache, [1, 2, 3], network)
    assert network.images == 3
    assert not compared
    ask(cache_in(tmp_path, share=0.01), [4, 5], network)  # by another run
    with pytest.raises(RunError, match="other bits"):
        ask(cache, [3, 4, 5], shifted)


def test_a_network_is_tried_on_a_large_batch_however_small_the_first_one_is(tmp_path):
    def dependent(images):
        x = images.flatten(1)
        return x + (1.0 if len(images) > 40 else 0.0)

    assert not is_independent(pictures([3]), dependent)
    cache = FeatureCache(tmp_path, "k", {"train": 500}, share=0.0)
    many = list(range(100))

    def beyond(images):
        return images.flatten(1) + (1.0 if len(images) > 64 else 0.0)

    ask(cache, [1], beyond)
    assert cache.tested == {"k": 64}
    ask(cache, many, beyond)
    assert cache.tested == {"k": -1}


def test_tables_that_were_used_longest_ago_make_room_and_too_large_ones_are_not_kept(tmp_path):
    network, size = Network(), 4 * 50 * 4
    cache = cache_in(tmp_path, limit=2.5 * size)
    for tokens in ("1", "2", "3"):
        ask(cache, [1], network, tokens=tokens)
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["2", "3"]
    assert ask(cache_in(tmp_path, limit=size - 1), [1], network, tokens="4")[0, 0] == 1.5
    assert len(list(tmp_path.iterdir())) == 2


def test_without_room_on_the_disk_everything_is_computed(tmp_path):
    (tmp_path / "file").write_text("")
    assert ask(cache_in(tmp_path / "file"), [1], Network())[0, 0] == 1.5


# ---- the model and whole runs ------------------------------------------------------------------------------------


def model_of(digits_config, tmp_path, method):
    session = prepare(digits_config({"method": method}), shared=Shared(features=Features(tmp_path, share=0.0)))
    model = session.worker.model
    return model, torch.rand(3, 3, 16, 16)


def test_only_the_frozen_networks_features_of_named_images_are_kept(digits_config, tmp_path):
    model, images = model_of(digits_config, tmp_path, {"name": "fedavg", "rank": 2})
    samples = np.array([3, 1, 2])
    loaded = {name: np.full(s.shape, 0.1, np.float32) for name, s in _lora(model).items()}

    def seen(arrays=None, **observers):
        model.load(arrays or {})
        with torch.no_grad(), model.showing(images, "train", samples), model.observed(observers):
            return model.features(images)

    with torch.no_grad():
        model.features(images)
    assert not any(tmp_path.iterdir()), "nobody said which images these are"
    seen(loaded)
    seen(**{"blocks.0.attn.qkv": lambda x: None})
    with model.showing(images, "train", samples):
        model.features(images)  # with gradients
    with torch.no_grad(), model.showing(images, "train", samples):
        model.features(images.clone())  # others
    assert not any(tmp_path.iterdir())
    bare = seen()
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.equal(seen(), bare)
    assert model.cache.found == 0
    assert not torch.equal(seen(loaded), bare)
    tokens = seen({TOKENS: np.array([[1, 0], [2, 0]], np.float32)})
    assert tokens.shape[1] == 2 * bare.shape[1]
    assert torch.equal(seen({TOKENS: np.array([[1, 0], [2, 0]], np.float32)}), tokens)


def _lora(model):
    from fcil.model.backbone import describe_backbone
    from fcil.model.settings import Model

    return model.adapter.initial(describe_backbone(Model()), lambda purpose: np.random.default_rng(0))


METHODS = [
    {"name": "ridge"}, {"name": "ranpac", "size": 30, "layers": [1, 2]},
    {"name": "lorm+ranpac", "rank": 2, "size": 30, "concat": True},
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
def test_runs_end_in_the_same_bits_with_features_of_others(method, digits_config, tmp_path):
    def run(folder, beta, shared):
        few = {"data": {"train_limit": 80, "test_limit": 30}}
        config = digits_config(few, {"method": method, "partition": {"beta": beta}, "train": {"rounds": 1}})
        return simulate(prepare(config, folder, shared=shared), folder)

    alone = run(tmp_path / "alone", 0.1, None)
    shared = Shared(features=Features(tmp_path / "features", share=0.1))
    run(tmp_path / "first", 0.5, shared)
    second = run(tmp_path / "second", 0.1, shared)
    assert second["sha256"] == alone["sha256"]
    assert second["correct"] == alone["correct"]
    assert second["cached"] >= 80
    assert "cached" not in alone


def test_a_run_keeps_features_only_where_it_is_told_to(digits_config, tmp_path):
    worker = prepare(digits_config(), shared=Shared(features=Features(tmp_path))).worker
    assert worker.model.cache is not None
    assert prepare(digits_config()).worker.model.cache is None
