"""Matching of units: a permutation that was made is found again; what is left apart stays exact."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small import SIZE, tiny_vit

from fcil.cli.main import main
from fcil.errors import MergeError
from fcil.merging.permutation import Mlp, best_match, fit_least_squares, layer_outputs, match_heads, merge_mlps
from fcil.model import alignment, tiny

seeds = st.integers(0, 2**32 - 1)


def mlp(rng, sizes=(4, 7, 6, 3)):
    return Mlp(tuple(rng.standard_normal((out, width + 1)) for width, out in pairwise(sizes)))


def shuffled(network, rng):
    return network.permuted([rng.permutation(len(layer)) for layer in network.layers[:-1]])


def function(network, x):
    return layer_outputs(network, x)[-1]


@given(seeds, st.integers(1, 9))
def test_a_match_is_a_bijection_and_no_exchange_of_two_is_better(seed, n):
    s = np.random.default_rng(seed).standard_normal((n, n))
    p = best_match(s)
    assert sorted(p) == list(range(n))
    whole = s[np.arange(n), p].sum()
    for i, j in np.ndindex(n, n):
        q = p.copy()
        q[[i, j]] = q[[j, i]]
        assert s[np.arange(n), q].sum() <= whole + 1e-12


@given(seeds, st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
def test_a_permuted_copy_is_undone(seed, alpha, fit):
    rng = np.random.default_rng(seed)
    a, x = mlp(rng), rng.standard_normal((50, 4))
    merged = merge_mlps(a, shuffled(a, rng), x, 1.0, alpha, fit)
    new = rng.standard_normal((9, 4))
    np.testing.assert_allclose(function(merged, new), function(a, new), rtol=1e-8, atol=1e-8)


@given(seeds, st.booleans())
def test_a_budget_of_two_is_both_networks_side_by_side(seed, fit):
    rng = np.random.default_rng(seed)
    a, b, x = mlp(rng), mlp(rng), rng.standard_normal((50, 4))
    merged = merge_mlps(a, b, x, 2.0, fit=fit)
    assert [len(layer) for layer in merged.layers] == [14, 12, 3]
    new = rng.standard_normal((9, 4))
    np.testing.assert_allclose(function(merged, new), (function(a, new) + function(b, new)) / 2, rtol=1e-8, atol=1e-8)


@given(seeds, st.sampled_from([1.0, 1.3, 2.0]))
def test_the_order_of_the_second_networks_units_does_not_matter(seed, budget):
    rng = np.random.default_rng(seed)
    a, b, x = mlp(rng), mlp(rng), rng.standard_normal((60, 4))
    first, second = (merge_mlps(a, other, x, budget) for other in (b, shuffled(b, rng)))
    np.testing.assert_allclose(function(second, x), function(first, x), rtol=1e-6, atol=1e-6)


def test_a_merged_network_comes_nearer_to_both_when_fitted():
    rng = np.random.default_rng(0)
    a, b, x = mlp(rng, (4, 12, 3)), mlp(rng, (4, 12, 3)), rng.standard_normal((400, 4))
    target = (function(a, x) + function(b, x)) / 2
    plain, fit = (np.square(function(merge_mlps(a, b, x, fit=f), x) - target).mean() for f in (False, True))
    assert fit < plain


@given(seeds)
def test_a_fit_solves_least_squares_and_keeps_what_inputs_do_not_say(seed):
    rng = np.random.default_rng(seed)
    z, y, start = rng.standard_normal((3, 5)), rng.standard_normal((3, 2)), rng.standard_normal((2, 5))
    w = fit_least_squares(start, z.T @ z, y.T @ z)
    np.testing.assert_allclose(z @ w.T, y, atol=1e-6)  # fewer samples than inputs: they can be met
    unseen = np.linalg.svd(z)[2][3:]
    np.testing.assert_allclose(unseen @ w.T, unseen @ start.T, atol=1e-9)
    np.testing.assert_array_equal(fit_least_squares(start, np.zeros((5, 5)), np.zeros((2, 5))), start)


def test_heads_are_matched_as_wholes():
    rng = np.random.default_rng(0)
    heads, d = 3, 4
    partner, inside = rng.permutation(heads), [rng.permutation(d) for _ in range(heads)]
    similarity = rng.uniform(0, 0.1, (heads, heads, d, d))
    for i, j in enumerate(partner):
        similarity[i, j, np.arange(d), inside[i]] = 1
    expected = np.concatenate([j * d + inside[i] for i, j in enumerate(partner)])
    for order in match_heads(similarity, similarity):
        np.testing.assert_array_equal(order, expected)


def test_what_cannot_be_matched_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(MergeError, match="not square"):
        best_match(np.zeros((2, 3)))
    with pytest.raises(MergeError, match="NaN"):
        best_match(np.full((2, 2), np.nan))
    with pytest.raises(MergeError, match="shapes"):
        merge_mlps(mlp(rng), mlp(rng, (4, 5, 3)), np.zeros((5, 4)))
    with pytest.raises(MergeError, match="budget"):
        merge_mlps(mlp(rng), mlp(rng), np.zeros((5, 4)), 2.5)


# ---- vision transformers ---------------------------------------------------------------------------------------------


def images(n=12, seed=0):
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def random_orders(seed):
    rng = np.random.default_rng(seed)

    def head_wise(partner):
        return np.concatenate([j * 16 + rng.permutation(16) for j in partner])

    orders = {}
    for block in range(2):
        partner = rng.permutation(2)
        orders[f"blocks.{block}"] = alignment.Orders(head_wise(partner), head_wise(partner), rng.permutation(64))
    return orders


def with_state(state):
    network = tiny_vit().eval()
    network.load_state_dict(state)
    return network


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_permuted_vit_is_the_same_function_and_is_undone(alpha):
    a = tiny_vit().eval()
    b = with_state(alignment.permuted(a.state_dict(), random_orders(0)))
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(b(x), a(x), rtol=1e-4, atol=1e-4)
    seen = alignment.correlations(a, b, [x[:6], x[6:]])
    orders = alignment.match_units(a, a.state_dict(), b.state_dict(), seen, alpha)
    for name, w in alignment.permuted(b.state_dict(), orders).items():
        assert torch.equal(w, a.state_dict()[name]), name


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_two_that_left_one_start_are_matched_in_the_order_they_have(alpha):
    a, gen = tiny_vit().eval(), torch.Generator().manual_seed(1)
    near = {n: w + 0.02 * torch.randn(w.shape, generator=gen) for n, w in a.state_dict().items()}
    seen = alignment.correlations(a, with_state(near), [images()])
    orders = alignment.match_units(a, a.state_dict(), near, seen, alpha)
    assert [order.moved for order in orders.values()] == [0, 0]


def test_correlations_are_those_of_numpy():
    a, b, x = tiny_vit(0).eval(), tiny_vit(1).eval(), images(6)
    kept = []
    for network in (a, b):
        handle = network.blocks[1].mlp.fc1.register_forward_hook(lambda _, i, o: kept.append(o.flatten(0, 1).numpy()))
        with torch.no_grad():
            network(x)
        handle.remove()
    expected = np.corrcoef(kept[0].T.astype(float), kept[1].T.astype(float))[:64, 64:]
    result = alignment.correlations(a, b, [x[:2], x[2:]])
    np.testing.assert_allclose(result["blocks.1.mlp.fc1"], expected, atol=1e-5)
    assert result["blocks.0.attn.qkv"].shape == (3, 32, 32)


def test_a_fit_of_two_copies_changes_nothing_and_of_two_others_comes_nearer():
    a, b, x = tiny_vit(0).eval(), tiny_vit(1).eval(), images(40)
    same = alignment.refit(a, a, a.state_dict(), [x])
    for name, w in same.items():
        torch.testing.assert_close(w, a.state_dict()[name], rtol=1e-4, atol=1e-4)
    merged = alignment.average(a.state_dict(), b.state_dict())
    errors = []
    first = "blocks.0.attn.qkv"
    for state in (merged, alignment.refit(a, b, merged, [x])):
        inputs = {}
        for name, network in (("a", a), ("b", b)):
            layer = network.get_submodule(first)
            handle = layer.register_forward_hook(
                lambda _, i, o, name=name, inputs=inputs: inputs.update({name: (i[0], o)})
            )
            with torch.no_grad():
                network(x)
            handle.remove()
        z, y = ((p + q) / 2 for p, q in zip(inputs["a"], inputs["b"], strict=True))
        errors.append((z @ state[f"{first}.weight"].T + state[f"{first}.bias"] - y).square().mean().item())
    assert errors[1] < errors[0]


def test_other_blocks_and_other_shapes_are_refused():
    odd = tiny_vit()
    odd.blocks[1].attn.q_norm = torch.nn.LayerNorm(16)
    with pytest.raises(MergeError, match="q_norm"):
        alignment.match_units(odd, odd.state_dict(), odd.state_dict())
    a = tiny_vit().state_dict()
    with pytest.raises(MergeError, match=r"norm\.weight"):
        alignment.average(a, {**a, "norm.weight": torch.zeros(3)})


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    """A checkpoint of the embedded architecture and a permuted copy."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        network = tiny.vit_tiny().eval()
    rng = np.random.default_rng(0)
    orders = {}
    for name, heads in alignment._blocks(network):
        own = [np.concatenate([j * 32 + rng.permutation(32) for j in range(heads)]) for _ in range(2)]
        orders[name] = alignment.Orders(own[0], own[1], rng.permutation(384))
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(network.state_dict(), paths[0])
    save_file({n: w.contiguous() for n, w in alignment.permuted(network.state_dict(), orders).items()}, paths[1])
    return paths


def test_the_command_undoes_a_permutation(pair, tmp_path, capsys):
    out = tmp_path / "merged.safetensors"
    assert main(["merge-models", *map(str, pair), "--out", str(out), "--alpha", "1"]) == 0
    assert "moved" in capsys.readouterr().out
    a, merged = load_file(pair[0]), load_file(out)
    assert a.keys() == merged.keys()
    assert all(torch.equal(a[name], merged[name]) for name in a)


def test_the_command_with_data_fits_too(pair, tmp_path):
    config, out = tmp_path / "c.toml", tmp_path / "merged.safetensors"
    config.write_text("[data]\ntrain_limit = 64\ntest_limit = 32\n")
    assert (
        main(["merge-models", *map(str, pair), "--out", str(out), "--config", str(config), "--images", "16", "--fit"])
        == 0
    )
    a, merged = load_file(pair[0]), load_file(out)
    for name in a:
        torch.testing.assert_close(merged[name], a[name], rtol=1e-3, atol=1e-3)


def test_mistakes_are_told_before_anything_is_written(pair, tmp_path, capsys):
    out = str(tmp_path / "merged.safetensors")
    for words, message in (
        (["--out", out, "--images", "0"], "a number of images, at least 1"),
        (["--out", str(tmp_path / "merged.npz")], "--out"),
        (["--out", out, "--alpha", "2"], "--alpha"),
        (["--out", out, "--fit"], "--config"),
        (["--out", out, "--backbone", "vit_tiny_patch16_224", "--image-size", "224"], "does not fit"),
    ):
        assert main(["merge-models", *map(str, pair), *words]) == 2
        assert message in capsys.readouterr().err
    for names in (["timm", str(pair[1])], [str(pair[0]), "none.safetensors"]):
        assert main(["merge-models", *names, "--out", out]) == 2
        assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "merged.safetensors").exists()
