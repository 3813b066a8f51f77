"""Kernels, competition and their gradients against literal transcriptions, finite differences and invariants."""

import math

import numpy as np
import pytest
import reference_kernels as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcil.model import kernels
from fcil.model.kernel_form import Form
from fcil.model.kernels import _compete, _Distances, _smallest, _threshold, change_and_thresholds, weight_change
from fcil.seeding import generator

KERNELS, RULES = ("linear", "piecewise", "mix"), ("code", "paper", "none")
FORMS = [Form(kernel, rule) for kernel in KERNELS for rule in RULES]
EXPAND = pytest.mark.parametrize("expand", [False, True], ids=["differences", "matmul"])


def points(rng, parts=1, inputs=5, outputs=4, width=3, dtype=torch.float64):
    """P, Q and mix of a layer, with numbers about as large as the distances."""
    p, q = rng.normal(size=(parts, 2, inputs, width)), rng.normal(size=(parts, 2, outputs, width))
    mix = rng.uniform(0.5, 1.5, (parts, 3)) * rng.choice([-1, 1], (parts, 3))
    return tuple(torch.tensor(a, dtype=dtype) for a in (p, q, mix))


@EXPAND
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_distances_and_their_gradients_are_the_literal_ones(expand, seed, n, m, width):
    rng = generator(seed, "distances")
    p, q = (torch.tensor(rng.normal(size=(k, width))).requires_grad_() for k in (n, m))
    g = rng.normal(size=(n, m))
    d = _Distances.apply(p, q, expand)
    np.testing.assert_allclose(d.detach(), reference.distance(p.tolist(), q.tolist()), rtol=1e-6, atol=1e-7)
    wanted = reference.distance_gradients(p.detach().numpy(), q.detach().numpy(), g)
    for actual, theirs in zip(torch.autograd.grad(d, (p, q), torch.tensor(g)), wanted, strict=True):
        np.testing.assert_allclose(actual, theirs, rtol=1e-5, atol=1e-6)


def test_gradients_of_distances_by_finite_differences():
    p, q, _ = points(generator(1, "p"))
    inputs = [p[0, 0].requires_grad_(), q[0, 0].requires_grad_()]
    assert torch.autograd.gradcheck(lambda p, q: _Distances.apply(p, q, False), inputs)


@EXPAND
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coincident_points_neither_pull_nor_give_nan(expand, dtype):
    p, q, _ = points(generator(2, "p"), dtype=dtype)
    p, q = p[0, 0], q[0, 0].clone()
    q[:3] = p[1]  # input 1 coincides with outputs 0 to 2; output 3 pulls it
    p.requires_grad_(), q.requires_grad_()
    d = _Distances.apply(p, q, expand)
    assert d[1, :3].abs().max() <= (2e-3 if expand and dtype == torch.float32 else 1e-7 if expand else 0)
    g = torch.zeros_like(d)
    g[1] = 1.0
    g_p, g_q = torch.autograd.grad(d, (p, q), g)
    unit = (p[1] - q[3]) / (p[1] - q[3]).norm()
    torch.testing.assert_close(g_p[1], unit, rtol=0, atol=1e-2 if dtype == torch.float32 and expand else 1e-5)
    torch.testing.assert_close(g_q[3], -unit, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(g_p).all()
    assert torch.isfinite(g_q).all()


def test_a_central_difference_at_coincident_points_is_the_subgradient_too():
    """|x + h| - |x - h| = 0 at x = 0 in every direction: the symmetric derivative that the subgradient 0 equals."""
    p, q, _ = points(generator(3, "p"))
    p, q = p[0, 0], q[0, 0].clone()
    q[2] = p[3]
    g = torch.tensor(generator(3, "g").normal(size=(5, 4)))
    leaf = p.clone().requires_grad_()
    (ours,) = torch.autograd.grad(_Distances.apply(leaf, q, False), leaf, g)
    for index in np.ndindex(*p.shape):
        step = torch.zeros_like(p)
        step[index] = 1e-5
        up, down = ((_Distances.apply(p + s * step, q, False) * g).sum() for s in (1, -1))
        assert abs((up - down) / 2e-5 - ours[index]) < 1e-6


def test_points_closer_than_rounding_do_not_blow_the_gradient_up():
    """Of pairs 1e-20 apart, 1 / D = 1e20 would meet a rounding error of 1e-8 in the other coordinates."""
    p, q, _ = points(generator(13, "p"), dtype=torch.float32)
    p, q = p[0, 0], q[0, 0]
    q[:3] = p[2]
    p[2, 0], q[:3, 0] = 1e-20, torch.tensor([2e-20, 4e-20, 8e-20])
    inputs = [p.requires_grad_(), q.requires_grad_()]
    d = _Distances.apply(*inputs, False)
    assert 0 < d[2, 0] < 2e-20
    for g in torch.autograd.grad(d.sum(), inputs):
        assert g.abs().max() <= 5


@pytest.mark.parametrize("form", FORMS, ids=str)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 7), st.integers(2, 6), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_changes_are_the_literal_ones(form, seed, parts, inputs, outputs, width):
    rng = generator(seed, "change")
    p, q, mix = points(rng, parts, inputs, outputs, width)
    sparsity = [float(np.float32(s)) for s in rng.uniform(0, 1, parts)]
    result = weight_change(form, p, q, mix, sparsity)
    assert result.shape == (parts * outputs, inputs)
    wanted = reference.weight_change(form.kernel, form.competition, p.numpy(), q.numpy(), mix.numpy(), sparsity)
    np.testing.assert_allclose(result, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rule", ["paper", "none"])
def test_gradients_by_finite_differences_with_the_threshold_held(kernel, rule):
    p, q, mix = points(generator(4, "p"), parts=2)
    # a little beside the entry that is the threshold, where the derivatives to both sides differ
    thresholds = change_and_thresholds(Form(kernel, rule), p, q, mix, [0.3, 0.6])[1] + 1e-4
    inputs = [p, q, mix] if kernel == "mix" else [p, q]

    def change(p, q, mix=None):
        return change_and_thresholds(Form(kernel, rule), p, q, mix, [0.3, 0.6], thresholds)[0]

    assert torch.autograd.gradcheck(change, [t.requires_grad_() for t in inputs])


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_codes_competition_passes_g_times_the_kept_magnitudes(kernel):
    p, q, mix = points(generator(5, "p"))
    inputs = [t.requires_grad_() for t in (p, q, mix)]
    g = torch.tensor(generator(5, "g").normal(size=(4, 5)))
    dense = weight_change(Form(kernel, "none"), *inputs, [0.4])
    magnitude = dense.detach().abs()
    kept = magnitude * (magnitude > np.quantile(magnitude.numpy(), 0.4))
    wanted = torch.autograd.grad(dense, inputs, g * kept, allow_unused=True)
    given = torch.autograd.grad(weight_change(Form(kernel, "code"), *inputs, [0.4]), inputs, g, allow_unused=True)
    for actual, theirs in zip(given, wanted, strict=True):
        assert (actual is None) == (theirs is None) == (kernel != "mix" and theirs is None)
        if actual is not None:
            torch.testing.assert_close(actual, theirs)


@pytest.mark.parametrize("form", [f for f in FORMS if f.kernel != "linear"], ids=str)
def test_rigid_motions_of_a_head_change_nothing(form):
    """P_h -> P_h R + t and Q_h -> Q_h R + t, with another R and t for each head and part."""
    rng = generator(6, "motion")
    p, q, mix = points(rng, parts=2, inputs=9, outputs=7)
    turned = [p.clone(), q.clone()]
    for part, head in np.ndindex(2, 2):
        turn, shift = np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.normal(size=3)
        for own in turned:
            own[part, head] = own[part, head] @ torch.tensor(turn) + torch.tensor(shift)
    still = weight_change(form, p, q, mix, [0.35, 0.7])
    torch.testing.assert_close(weight_change(form, *turned, mix, [0.35, 0.7]), still, rtol=1e-9, atol=1e-9)
    assert still.abs().max() > 1e-3


@pytest.mark.parametrize(("rule", "degree"), [("none", 1), ("code", 2), ("paper", 2)])
def test_the_piecewise_kernel_is_homogeneous(rule, degree):
    p, q, _ = points(generator(7, "p"), inputs=20, outputs=30)
    once, thrice = (weight_change(Form("piecewise", rule), s * p, s * q, None, [0.5]) for s in (1, 3))
    torch.testing.assert_close(thrice, 3**degree * once)
    assert once.any()


def test_the_linear_kernel_is_a_lora_pair():
    """Whole numbers, of which float32 forgets nothing: the product B A to the last bit, and its gradients."""
    rng = generator(8, "lora")
    p, q = (torch.tensor(rng.integers(-9, 9, (1, 2, k, 4)), dtype=torch.float32).requires_grad_() for k in (6, 5))
    a, b = torch.cat([p[0, 0].T, p[0, 1].T]), torch.cat([q[0, 0], q[0, 1]], 1)
    assert (a.shape, b.shape) == ((8, 6), (5, 8))
    g = torch.tensor(rng.integers(-9, 9, (5, 6)), dtype=torch.float32)
    ours, theirs = weight_change(Form("linear", "none"), p, q, None, [0.0]), b @ a
    assert torch.equal(ours, theirs)
    for x, y in zip(torch.autograd.grad(ours, (p, q), g), torch.autograd.grad(theirs, (p, q), g), strict=True):
        assert torch.equal(x, y)


@given(st.integers(0, 10**6), st.integers(1, 60), st.floats(0, 1, width=32), st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_kept_is_what_exceeds_the_interpolated_quantile(seed, n, sparsity, values):
    """Few different values, so that many are tied; magnitudes are whole, so that float64 interpolates them exactly."""
    change = generator(seed, "ties").integers(-values, values + 1, n).astype(np.float64)
    t = _threshold(torch.tensor(change), sparsity, "code")
    kept = np.abs(change) > float(t)
    np.testing.assert_array_equal(kept, np.abs(change) > np.quantile(np.abs(change), sparsity))
    theirs = torch.quantile(torch.tensor(change).abs(), torch.tensor(sparsity, dtype=torch.float64))
    np.testing.assert_array_equal(kept, np.abs(change) > theirs.item())


@given(st.integers(0, 10**6), st.integers(2, 500), st.floats(0, 1, width=32), st.sampled_from(["code", "paper"]))
@settings(max_examples=200, deadline=None)
def test_the_share_of_nonzeros_is_one_less_the_sparsity_within_an_entry(seed, n, sparsity, rule):
    change = torch.tensor(generator(seed, "nonzeros").permutation(n) + 1.0) * 0.1  # no ties
    result = _compete(change, _threshold(change, sparsity, rule), rule)
    assert abs(int(result.count_nonzero()) - (1 - sparsity) * n) <= 1
    kept, dropped = change[result != 0], change[result == 0]
    assert not len(kept) or not len(dropped) or kept.min() > dropped.max()


def test_the_ends_of_the_range():
    change = torch.tensor([[3.0, -1.0], [2.0, -2.0]])
    assert _threshold(change, 0.0, "code") == 1  # strictly greater: the smallest entry is dropped
    assert _threshold(change, 0.0, "paper") == 0
    torch.testing.assert_close(_compete(change, torch.tensor(0.0), "paper"), change * change.abs())
    for rule in ("code", "paper"):
        assert not _compete(change, _threshold(change, 1.0, rule), rule).any()
        with pytest.raises(ValueError, match="between 0 and 1"):
            _threshold(change, 1.5, rule)


@pytest.mark.parametrize("make", [np.sort, lambda a: a[::-1].copy(), np.zeros_like, np.sign, lambda a: a])
def test_order_statistics_are_those_of_a_sort(make):
    values = make(generator(9, "order").normal(size=1001).astype(np.float32))
    for place in (0, 1, 500, 999, 1000):
        assert _smallest(torch.tensor(values), place) == np.sort(values)[place]
        assert torch.tensor(values).kthvalue(place + 1).values == np.sort(values)[place]  # what other devices use


def test_more_entries_than_float32_can_number():
    """Some versions of torch.quantile refuse more than 2^24 entries."""
    n = 2**24 + 2
    change = torch.arange(n, dtype=torch.float64)  # as float32, neighbours would be tied from 2^24 on
    assert _threshold(change, 0.75, "code") == math.floor(0.75 * (n - 1))


@pytest.mark.parametrize("form", [f for f in FORMS if f.kernel != "linear"], ids=str)
def test_bits_do_not_depend_on_threads_autocast_or_the_gradients_mode(form):
    p, q, mix = points(generator(10, "p"), 3, 190, 130, 5, torch.float32)
    sparsity, before = [0.2, 0.5, 0.9], torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(weight_change(form, p, q, mix, sparsity))
    finally:
        torch.set_num_threads(before)
    with torch.autocast("cpu", torch.bfloat16):
        results.append(weight_change(form, p, q, mix, sparsity))
    traced, thresholds = change_and_thresholds(form, p.requires_grad_(), q, mix, sparsity)
    results.append(traced.detach())
    results.append(change_and_thresholds(form, p, q, mix, sparsity, thresholds)[0].detach())
    assert all(r.dtype == torch.float32 and torch.equal(r, results[0]) for r in results)


def test_the_linear_kernel_stays_in_float32_under_autocast():
    p, q, _ = points(generator(14, "p"), 3, 20, 10, 4, torch.float32)
    plain = weight_change(Form("linear", "none"), p, q, None, [0.0] * 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(weight_change(Form("linear", "none"), p, q, None, [0.0] * 3), plain)


def test_the_mix_kernel_without_its_coefficients_is_an_error():
    p, q, _ = points(generator(11, "p"))
    with pytest.raises(ValueError, match="kernel_mix"):
        weight_change(Form("mix", "none"), p, q, None, [0.0])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_distances_by_a_matmul_serve_as_well(form, monkeypatch):
    """As other devices take them."""
    p, q, mix = points(generator(15, "p"), parts=2)
    inputs = [t.requires_grad_() for t in (p, q, mix)][: 3 if form.kernel == "mix" else 2]
    results = []
    for expand in (False, True):
        monkeypatch.setattr(kernels, "distances", lambda p, q, expand=expand: _Distances.apply(p, q, expand))
        change = weight_change(form, p, q, mix, [0.3, 0.6])
        results.append([change, *torch.autograd.grad(change.square().sum(), inputs)])
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


def test_distances_keep_only_the_points():
    p, q, _ = points(generator(12, "p"), inputs=50, outputs=40)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        _Distances.apply(p[0, 0].requires_grad_(), q[0, 0], False)
    assert sorted(sizes) == [40 * 3, 50 * 3]
