"""Quantisation in blocks and LoftQ's decomposition against literal transcriptions, invariants and PEFT's own code."""

import sys
import types

import numpy as np
import pytest
import reference_quantization as reference
from hypothesis import given
from hypothesis import strategies as st
from reference_peers import best_of_rank

from fcil.errors import ConfigError
from fcil.merging.lowrank import dense, truncated
from fcil.model.quantization import BITS, KINDS, _nearest, byte_levels, dequantized, levels, loftq, quantized
from fcil.seeding import generator

FORMS = [(bits, kind) for bits in BITS for kind in KINDS]
forms = pytest.mark.parametrize(("bits", "kind"), FORMS)


def weight(out, width, seed=0, scale=0.02):
    return generator(seed, "weight", out, width).normal(0, scale, (out, width)).astype(np.float32)


def unpacked(codes, bits):
    """The numbers of the entries' levels, taken from the text of each byte's bits."""
    texts = [f"{byte:08b}" for byte in codes]
    return [int(text[8 - bits * (i + 1) : 8 - bits * i], 2) for text in texts for i in range(8 // bits)]


# ---- levels ----------------------------------------------------------------------------------------------------------


def test_the_nf4_table_is_the_published_one():
    np.testing.assert_allclose(levels(4, "nf"), reference.NF4, rtol=0, atol=2e-7)


@forms
def test_levels_are_those_of_the_definition(bits, kind):
    table = levels(bits, kind)
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, reference.table(bits, kind), rtol=0, atol=1e-7)
    assert (np.diff(table) > 0).all()
    assert (table[0], table[-1], len(table)) == (-1, 1, 2**bits)
    assert (0 in table) == (kind == "nf")


# ---- blocks ----------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(FORMS),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([4, 8, 20, 64]),
    st.integers(0, 99),
    st.sampled_from([1e-30, 0.02, 1.0, 1e30]),
)
def test_every_entry_has_the_nearest_level_of_its_block(form, shape, block, seed, scale):
    w = weight(*shape, seed, scale)
    codes, scales = quantized(w, *form, block)
    table = levels(*form).astype(np.float64)
    chosen, wanted = reference.numbers(w, table, block)
    assert unpacked(codes, form[0])[: w.size] == chosen
    np.testing.assert_array_equal(scales, np.float32(wanted))
    ours = dequantized(codes, scales, shape, *form)
    np.testing.assert_allclose(ours, reference.restored(chosen, wanted, table, block, shape), rtol=1e-7)
    assert ours.dtype == np.float32


@forms
@pytest.mark.parametrize("shape", [(8, 16), (3, 7)])
def test_errors_are_at_most_half_the_widest_gap_times_the_scale(bits, kind, shape):
    w, gap = weight(*shape), np.diff(levels(bits, kind)).max()
    codes, scales = quantized(w, bits, kind, 16)
    error = np.abs(w - dequantized(codes, scales, shape, bits, kind)).ravel()
    bound = np.repeat(scales, 16)[: w.size] * gap / 2 * (1 + 1e-6)
    assert (error <= bound).all()
    assert error.max() > 0


@forms
def test_what_has_been_quantised_stays_as_it_is(bits, kind):
    codes, scales = quantized(weight(6, 32), bits, kind)
    again = quantized(dequantized(codes, scales, (6, 32), bits, kind), bits, kind)
    np.testing.assert_array_equal(again[0], codes)
    np.testing.assert_array_equal(again[1], scales)


@forms
def test_the_first_entry_of_a_byte_is_in_its_lowest_bits(bits, kind):
    order = [1, 0, 3, 2] if bits == 2 else [15, 7, 0, 8]
    w = levels(bits, kind)[order]
    codes, _ = quantized(w[None], bits, kind, 4)
    assert codes.dtype == np.uint8
    assert codes.tolist() == ([0b10_11_00_01] if bits == 2 else [0x7F, 0x80])
    np.testing.assert_array_equal(byte_levels(bits, kind)[codes].ravel(), levels(bits, kind)[order])


@forms
def test_blocks_of_zeros_are_restored_as_zeros_beside_others(bits, kind):
    w = np.zeros((4, 16), np.float32)
    w[2] = 1.0
    codes, scales = quantized(w, bits, kind, 16)
    assert scales.tolist() == [0, 0, 1, 0]
    np.testing.assert_array_equal(dequantized(codes, scales, w.shape, bits, kind), w)


def test_halfway_between_two_levels_the_lower_is_taken():
    codes, _ = quantized(np.array([[1.0, 0.0, -1.0, 0.0]]), 2, "uniform", 4)
    assert unpacked(codes, 2) == [3, 1, 0, 1]


@forms
@pytest.mark.parametrize("factor", [2.0**-20, 8.0])
def test_a_weight_times_a_power_of_two_has_the_same_codes(bits, kind, factor):
    w = weight(5, 24)
    codes, scales = quantized(w, bits, kind)
    scaled = quantized(w * np.float32(factor), bits, kind)
    np.testing.assert_array_equal(scaled[0], codes)
    np.testing.assert_array_equal(scaled[1], scales * np.float32(factor))


@forms
def test_a_short_last_block_is_one_filled_up_with_zeros(bits, kind):
    w = weight(1, 70)
    full = np.zeros((1, 128), np.float32)
    full[:, :70] = w
    codes, scales = quantized(w, bits, kind)
    for ours, wanted in zip((codes, scales), quantized(full, bits, kind), strict=True):
        np.testing.assert_array_equal(ours, wanted)
    np.testing.assert_array_equal(
        dequantized(codes, scales, w.shape, bits, kind), dequantized(codes, scales, full.shape, bits, kind)[:, :70]
    )


@pytest.mark.parametrize(("bits", "size"), [(4, 4.5), (2, 2.5)])
def test_an_entry_takes_its_bits_and_its_share_of_a_scale(bits, size):
    codes, scales = quantized(weight(32, 64), bits)
    assert 8 * (codes.nbytes + scales.nbytes) == size * 32 * 64


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e39])
def test_a_weight_that_is_not_finite_in_float32_is_refused(value):
    w = weight(4, 16).astype(np.float64)
    w[1, 2] = value
    with pytest.raises(ConfigError, match="not finite"):
        loftq(w, 2, 4)


# ---- LoftQ -----------------------------------------------------------------------------------------------------------


def parts(w, split, bits, kind):
    """Q and B A, float64."""
    q = dequantized(split.codes, split.scales, w.shape, bits, kind).astype(np.float64)
    return q, split.b.astype(np.float64) @ split.a


@given(
    st.sampled_from(FORMS), st.integers(2, 12), st.integers(2, 12), st.integers(1, 4), st.integers(1, 4),
    st.integers(0, 99),
)  # fmt: skip
def test_the_alternation_is_the_published_one(form, out, width, rank, iterations, seed):
    w, rank = weight(out, width, seed), min(rank, out, width)
    ours = parts(w, loftq(w, rank, *form, iterations, 8), *form)
    theirs = reference.loftq(w.astype(np.float64), rank, levels(*form).astype(np.float64), iterations, 8)
    for actual, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-4 * np.abs(w).max())


@forms
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_the_pair_is_the_best_of_its_rank_for_the_q_that_is_returned(bits, kind, iterations):
    w = weight(24, 32)
    q, product = parts(w, loftq(w, 6, bits, kind, iterations), bits, kind)
    s = np.linalg.svd(w - q, compute_uv=False)
    assert np.linalg.norm(w - q - product) == pytest.approx(np.sqrt(np.sum(s[6:] ** 2)), rel=1e-6)
    assert np.linalg.norm(w - q - product) < np.linalg.norm(w - q)


@forms
@pytest.mark.parametrize("shape", [(16, 24), (24, 16)])
def test_at_full_rank_the_weight_is_recovered(bits, kind, shape):
    w = weight(*shape)
    q, product = parts(w, loftq(w, 16, bits, kind, 3), bits, kind)
    np.testing.assert_allclose(q + product, w, rtol=0, atol=1e-6 * np.abs(w).max())


@forms
def test_one_iteration_is_qlora_and_an_svd_of_its_error(bits, kind):
    w = weight(16, 24)
    split = loftq(w, 3, bits, kind, 1)
    for ours, wanted in zip((split.codes, split.scales), quantized(w, bits, kind), strict=True):
        np.testing.assert_array_equal(ours, wanted)
    q, product = parts(w, split, bits, kind)
    np.testing.assert_allclose(product, best_of_rank(w - q, 3), rtol=0, atol=1e-8)


def test_five_iterations_come_nearer_than_one():
    w = weight(64, 96)
    errors = []
    for iterations in (1, 5):
        q, product = parts(w, loftq(w, 8, 2, "nf", iterations), 2, "nf")
        errors.append(np.linalg.norm(w - q - product))
    assert errors[1] < errors[0]


def test_factors_are_balanced_and_their_signs_determined():
    split = loftq(weight(24, 32), 5, 4)
    np.testing.assert_allclose(np.linalg.norm(split.b, axis=0), np.linalg.norm(split.a, axis=1), rtol=1e-6)
    assert (split.b[np.abs(split.b).argmax(0), np.arange(5)] > 0).all()
    assert (split.a.dtype, split.b.dtype) == (np.float32, np.float32)


@forms
def test_a_weight_without_error_leaves_a_pair_of_zeros(bits, kind):
    held = dequantized(*quantized(weight(8, 16), bits, kind), (8, 16), bits, kind)
    for w in (held, np.zeros((8, 16), np.float32)):
        split = loftq(w, 2, bits, kind)
        q, product = parts(w, split, bits, kind)
        np.testing.assert_array_equal(q, w)
        assert not product.any()
        assert (split.a.shape, split.b.shape) == ((2, 16), (8, 2))


@pytest.mark.parametrize(("shape", "rank"), [((24, 16), 5), ((16, 24), 5), ((16, 16), 16), ((24, 16), 16)])
@pytest.mark.parametrize("condition", [1.0, 1e12])
@pytest.mark.parametrize("kept", [16, 3])
def test_the_nearest_of_a_rank_is_that_of_an_svd(shape, rank, condition, kept):
    """Also where singular values are too small for a Gram matrix, and of a matrix of less rank than asked for."""
    gen, side = generator(0, "svd"), min(shape)
    u, v = (np.linalg.qr(gen.normal(size=(n, side)))[0] for n in shape)
    s = np.geomspace(1, 1 / condition, side) * np.linspace(1, 0.9, side) * (np.arange(side) < kept)
    matrix = u * s @ v.T
    ours, (wanted, _) = _nearest(matrix, rank), truncated(matrix, rank)
    np.testing.assert_allclose(dense(ours), dense(wanted), rtol=0, atol=1e-10)
    if condition == 1:
        np.testing.assert_allclose(ours.b[:, :kept], wanted.b[:, :kept], rtol=0, atol=1e-7)
        np.testing.assert_allclose(ours.a[:kept], wanted.a[:kept], rtol=0, atol=1e-7)
        assert not ours.b[:, kept:].any()
        assert not ours.a[kept:].any()
    assert not _nearest(np.zeros(shape), rank).b.any()


# ---- PEFT's own code -------------------------------------------------------------------------------------------------


peft_is_changing = pytest.mark.filterwarnings("ignore:.*PEFT 0.20.*:DeprecationWarning")


@pytest.fixture
def peft_loftq():
    """PEFT's module; version 0.20 took its own quantiser out, and then there is nothing to compare on a processor."""
    pytest.importorskip("peft", reason="needs PEFT (pip install 'peft>=0.18,<0.20')", exc_type=ImportError)
    from peft.utils import loftq_utils

    if not hasattr(loftq_utils, "NFQuantizer"):
        pytest.skip("this PEFT quantises with bitsandbytes only; needs peft<0.20")
    return loftq_utils


@peft_is_changing
@pytest.mark.parametrize("bits", BITS)
def test_levels_codes_and_scales_are_those_of_peft(peft_loftq, bits):
    import torch

    quantizer = peft_loftq.NFQuantizer(num_bits=bits, device="cpu", method="normal", block_size=64)
    np.testing.assert_allclose(levels(bits, "nf"), quantizer.norm_lookup_table.numpy(), rtol=0, atol=2e-7)
    uniform = quantizer.create_uniform_map(num_bits=bits)
    np.testing.assert_allclose(levels(bits, "uniform"), uniform.numpy(), rtol=0, atol=2e-7)
    w = weight(96, 128)
    packed, largest, shape = quantizer.quantize_block(torch.from_numpy(w))
    codes, scales = quantized(w, bits)
    np.testing.assert_array_equal(codes, packed.numpy().ravel())
    np.testing.assert_array_equal(scales, largest.numpy().ravel())
    theirs = quantizer.dequantize_block(packed, largest, shape).numpy()
    np.testing.assert_allclose(dequantized(codes, scales, w.shape, bits), theirs, rtol=0, atol=2e-7 * scales.max())


@peft_is_changing
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_a_layer_is_split_as_by_peft(peft_loftq, iterations, monkeypatch):
    """Theirs runs in float32: after some iterations an entry near a boundary may fall to its other side, then others.

    Both are then as far from the weight.
    """
    import torch

    # it wants bitsandbytes to be there even where it then computes without
    monkeypatch.setattr(peft_loftq, "is_bnb_available", lambda: True)
    monkeypatch.setattr(peft_loftq, "is_bnb_4bit_available", lambda: False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    w = weight(96, 128)
    theirs, a, b = (t.double().numpy() for t in peft_loftq.loftq_init(torch.from_numpy(w), 4, 8, iterations))
    q, product = parts(w, loftq(w, 8, 4, "nf", iterations), 4, "nf")
    assert np.linalg.norm(w - q - product) == pytest.approx(np.linalg.norm(w - theirs - b @ a), rel=1e-4)
    if iterations <= 2:
        np.testing.assert_allclose(q, theirs, rtol=0, atol=1e-6 * np.abs(w).max())
        np.testing.assert_allclose(product, b @ a, rtol=0, atol=1e-4 * np.abs(b @ a).max())
