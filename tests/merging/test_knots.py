"""KnOTS in factors against a dense SVD, and the invariants of the method; Core Space as a host."""

import tracemalloc

import numpy as np
import pytest
import reference_ties
from factors import denses, draws, experts, many, mapped
from hypothesis import given
from hypothesis import strategies as st
from problems import close

from fcil.errors import ConfigError, MergeError
from fcil.merging.core_space import core_basis
from fcil.merging.expert import Expert
from fcil.merging.knots import column_basis, row_basis
from fcil.merging.lowrank import LowRank, dense, stacked, truncated
from fcil.merging.shared_basis import SharedBasis, merge_in_basis
from fcil.merging.ties import Entries, trim_elect_merge
from strategies.core_space import CoreSpace
from strategies.knots import Knots
from strategies.task_arithmetic import TaskArithmetic

STACKS = st.sampled_from(["columns", "rows"])
TOPS = st.sampled_from([0.2, 0.6, 1.0])
SPACES = pytest.mark.parametrize("space", [column_basis, row_basis, core_basis])


def merged(of, seed=0, **settings):
    """Layer -> dense merged change of KnOTS."""
    return {n: dense(c) for n, c in Knots(**settings).combine(of, draws(seed))}


def same(left, right, tolerance=1e-9):
    """Equal up to rounding; zero is relative to the largest entry of a layer."""
    assert list(left) == list(right)
    for layer in left:
        size = np.abs(right[layer]).max() or 1.0
        np.testing.assert_allclose(left[layer] / size, right[layer] / size, rtol=0, atol=tolerance)


def weights(of):
    return [e.weight for e in of]


def mean(of):
    return {n: np.average([denses(e)[n] for e in of], axis=0, weights=weights(of)) for n in of[0].changes}


def orthogonal(seed, n):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def rotated(of, left=None, right=None):
    """Q dW_i P with a matrix for each layer's side, or None."""

    def change(name, c):
        b = c.b if left is None else left[name] @ c.b
        return LowRank(b, c.a if right is None else c.a @ right[name])

    return [Expert({n: change(n, c) for n, c in e.changes.items()}, e.weight) for e in of]


def sides(of, axis):
    return {n: c.shape[axis] for n, c in of[0].changes.items()}


# ---- the basis -------------------------------------------------------------------------------------------------------


@SPACES
@given(of=many())
def test_changes_are_what_their_coordinates_say_and_the_bases_are_orthonormal(space, of):
    for layer in of[0].changes:
        result = space([e.changes[layer] for e in of])
        for one, coordinates in zip(of, result.coordinates, strict=True):
            close(dense(result.to_weights(coordinates)), denses(one)[layer], 1e-12)
            close(dense(result.to_weights(dense(coordinates))), denses(one)[layer], 1e-12)
        for basis in (result.left, None if result.right is None else result.right.T):
            if basis is not None:
                close(basis.T @ basis, np.eye(basis.shape[1]), 1e-12)


@given(many())
def test_coordinates_have_the_singular_values_of_the_dense_matrix_as_their_rows_lengths(of):
    for layer in of[0].changes:
        result = column_basis([e.changes[layer] for e in of])
        together = np.concatenate([dense(c) for c in result.coordinates], axis=1)
        s = np.linalg.svd(np.concatenate([denses(e)[layer] for e in of], axis=1), compute_uv=False)
        close(np.linalg.norm(together, axis=1), s[: len(together)], 1e-10)
        assert (s[len(together) :] <= 1e-9 * s[0]).all()


def test_the_cut_off_is_relative_so_that_tiny_changes_survive():
    """Where singular values of at most 1e-5 are dropped, nothing would be left of these."""
    of = experts(0)
    tiny = mapped(of, lambda c: LowRank(1e-9 * c.b, c.a))
    for layer in of[0].changes:
        whole, small = (column_basis([e.changes[layer] for e in each]) for each in (of, tiny))
        assert whole.left.shape == small.left.shape
        close(small.left, whole.left, 1e-9)


def test_ranks_beyond_the_matrix_and_single_directions():
    of = experts(1, (9, 1, 7), {"small": (3, 2), "row": (1, 6), "column": (6, 1)})
    for space in (column_basis, row_basis, core_basis):
        for layer in of[0].changes:
            result = space([e.changes[layer] for e in of])
            for one, coordinates in zip(of, result.coordinates, strict=True):
                close(dense(result.to_weights(coordinates)), denses(one)[layer], 1e-12)


# ---- the merge, and the invariants -----------------------------------------------------------------------------------


@given(many(), TOPS, STACKS)
def test_knots_ties_is_the_transcription_with_a_dense_svd(of, top, stack):
    def literal(each):
        return reference_ties.knots(each, weights(of), lambda c, w: reference_ties.ties(c, w, top, 0.6))

    wholes = [denses(e) for e in of]
    if stack == "columns":
        wanted = literal(wholes)
    else:
        wanted = {n: x.T for n, x in literal([{n: d.T for n, d in w.items()} for w in wholes]).items()}
    same(merged(of, top=top, stack=stack), wanted)


@given(many(), STACKS, st.integers(0, 99))
def test_knots_with_a_mean_is_the_mean_of_the_products_and_any_sum_that_sum(of, stack, seed):
    same(merged(of, reduce="mean", stack=stack), mean(of))
    w = np.random.default_rng(seed).normal(size=len(of))

    def weighted_sum(inside):
        for layer in inside[0].changes:
            yield layer, stacked([e.changes[layer] for e in inside], list(w))

    wanted = {n: sum(x * denses(e)[n] for x, e in zip(w, of, strict=True)) for n in of[0].changes}
    result = merge_in_basis(column_basis if stack == "columns" else row_basis, of, weighted_sum)
    same({layer: dense(change) for layer, change in result}, wanted)


@given(many(), STACKS)
def test_one_expert_or_copies_of_it_are_that_expert_untrimmed_and_trimmed_in_its_own_basis(of, stack):
    one = of[0]
    same(merged([one], top=1.0, scale=1.0, stack=stack), denses(one))
    same(merged([one] * 3, top=1.0, scale=1.0, stack=stack), denses(one))
    single = merged([one], top=0.3, scale=1.0, stack=stack)
    same(merged([one] * 3, top=0.3, scale=1.0, stack=stack), single)
    if stack == "columns":
        bases = {n: reference_ties.shared_basis([d]) for n, d in denses(one).items()}
        kept = reference_ties.trim(reference_ties.vector({n: c[0] for n, (_, c) in bases.items()}), 0.3)
        kept = reference_ties.unvector(kept, {n: c[0] for n, (_, c) in bases.items()})
        same(single, {n: bases[n][0] @ kept[n] for n in bases})


@given(many(), TOPS, STACKS, st.integers(0, 99))
def test_signs_of_singular_pairs_change_nothing(of, top, stack, seed):
    """Exactly: not a bit moves."""
    space = column_basis if stack == "columns" else row_basis

    def flipped(changes):
        result = space(changes)
        k = result.coordinates[0].shape[0 if stack == "columns" else 1]
        s = np.random.default_rng(seed).choice([-1.0, 1.0], k)
        if stack == "columns":
            return SharedBasis(tuple(LowRank(s[:, None] * c.b, c.a) for c in result.coordinates), left=result.left * s)
        return SharedBasis(tuple(LowRank(c.b, c.a * s) for c in result.coordinates), right=s[:, None] * result.right)

    plain, other = (dict(merge_in_basis(f, of, lambda e: trim_elect_merge(Entries(e), top))) for f in (space, flipped))
    for layer in plain:
        np.testing.assert_array_equal(dense(other[layer]), dense(plain[layer]))


@given(many(few=2), TOPS, STACKS)
def test_order_of_experts_does_not_matter(of, top, stack):
    same(merged(of[::-1], top=top, stack=stack), merged(of, top=top, stack=stack))


@given(many(), TOPS, st.integers(0, 99))
def test_a_rotation_of_the_outputs_rotates_the_merge(of, top, seed):
    left = {n: orthogonal(seed, k) for n, k in sides(of, 0).items()}
    plain = merged(of, top=top)
    same(merged(rotated(of, left=left), top=top), {n: left[n] @ x for n, x in plain.items()})


@given(many(), TOPS, st.integers(0, 99))
def test_a_signed_permutation_of_the_inputs_does_the_same_to_the_merge(of, top, seed):
    rng = np.random.default_rng(seed)
    right = {n: rng.permutation(np.eye(k)) * rng.choice([-1.0, 1.0], k) for n, k in sides(of, 1).items()}
    plain = merged(of, top=top)
    same(merged(rotated(of, right=right), top=top), {n: x @ right[n] for n, x in plain.items()})


def test_a_rotation_of_the_inputs_does_not():
    """Entries of the coordinates go by input features: so KnOTS depends on their axes, as TIES does."""
    of = experts(0)
    right = {n: orthogonal(3, k) for n, k in sides(of, 1).items()}
    plain, turned = merged(of), merged(rotated(of, right=right))
    for layer in plain:
        wanted = plain[layer] @ right[layer]
        assert np.linalg.norm(turned[layer] - wanted) > 0.1 * np.linalg.norm(wanted)


@given(many(), TOPS, STACKS, st.integers(0, 99))
def test_the_gauge_of_the_factors_does_not_matter(of, top, stack, seed):
    rng = np.random.default_rng(seed)

    def other(change):
        g = np.linalg.qr(rng.normal(size=(change.rank,) * 2))[0] * rng.uniform(0.5, 2, change.rank)
        return LowRank(change.b @ g, np.linalg.inv(g) @ change.a)

    same(merged(mapped(of, other), top=top, stack=stack), merged(of, top=top, stack=stack))


def test_the_gauge_does_matter_to_a_mean_of_the_factors():
    """So the test above says something: B G, G^-1 A is the same change, but not the same mean of factors."""
    of = experts(0, (2, 2))

    def mean_of_factors(each):
        changes = [e.changes["first"] for e in each]
        return np.mean([c.b for c in changes], axis=0) @ np.mean([c.a for c in changes], axis=0)

    other = [mapped(of[:1], lambda c: LowRank(3 * c.b, c.a / 3))[0], of[1]]
    assert np.abs(mean_of_factors(other) - mean_of_factors(of)).max() > 0.1


@given(many(), TOPS, STACKS, st.sampled_from([1e-9, 7.0, 1e9]))
def test_scaled_changes_give_the_scaled_merge(of, top, stack, c):
    scaled = mapped(of, lambda change: LowRank(c * change.b, change.a))
    plain = merged(of, top=top, stack=stack)
    same({n: x / c for n, x in merged(scaled, top=top, stack=stack).items()}, plain)


def test_equal_singular_values_leave_a_choice_of_basis_which_is_made_alike_every_time():
    """Of this pair U is any rotation; TIES comes out differently in two of them, so no test may rely on one."""
    one = [LowRank(np.eye(2), np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])), LowRank(np.eye(2), np.eye(4)[2:])]
    of = [Expert({"layer": change}) for change in one]
    turn = orthogonal(0, 2)

    def turned(changes):
        result = column_basis(changes)
        return SharedBasis(tuple(LowRank(turn.T @ c.b, c.a) for c in result.coordinates), left=result.left @ turn)

    def ties_in(space):
        return dense(dict(merge_in_basis(space, of, lambda e: trim_elect_merge(Entries(e), 0.25)))["layer"])

    for i, coordinates in enumerate(turned(one).coordinates):
        close(dense(turned(one).to_weights(coordinates)), denses(of[i])["layer"], 1e-12)
    assert np.abs(ties_in(turned) - ties_in(column_basis)).max() > 0.1
    np.testing.assert_array_equal(ties_in(column_basis), ties_in(column_basis))


@given(many(), st.integers(0, 99), st.floats(0.05, 0.9))
def test_dare_ties_is_the_transcription_on_the_coordinates(of, seed, p):
    """The masks drawn here are those of the coordinates, so the product's own basis stands in for the dense one."""
    draw = draws(seed)
    result = {n: column_basis([e.changes[n] for e in of]) for n in of[0].changes}

    def thin(i, layer):
        c = dense(result[layer].coordinates[i])
        return reference_ties.thinned(c, draw("mask", i, layer).random(c.shape), p)

    inside = [{n: thin(i, n) for n in result} for i in range(len(of))]
    wanted = {n: result[n].left @ x for n, x in reference_ties.ties(inside, weights(of), 1.0, 0.7).items()}
    same(merged(of, seed, reduce="dare_ties", drop=p), wanted)
    same(merged(of, seed, reduce="dare_ties", drop=0.0), merged(of, top=1.0, scale=0.7))


def test_masks_differ_from_phase_to_phase_and_come_again():
    of = experts(0)
    one, again, other = (merged(of, seed, reduce="dare_ties", drop=0.5) for seed in (0, 0, 1))
    for layer in one:
        np.testing.assert_array_equal(one[layer], again[layer])
    assert any(np.abs(one[layer] - other[layer]).max() > 0 for layer in one)


def test_defaults_are_those_of_the_paper_for_each_way_to_merge():
    of = experts(0)
    same(merged(of), merged(of, top=0.2, scale=0.6))
    same(merged(of, reduce="dare_ties"), merged(of, reduce="dare_ties", top=1.0, scale=0.7, drop=0.1))
    same(merged(of, reduce="mean"), mean(of))
    same(merged(of, reduce="mean", scale=0.5), {n: x / 2 for n, x in mean(of).items()})


def test_zero_changes_merge_to_zero_and_one_among_others_is_no_error():
    zero = mapped(experts(0), lambda c: LowRank(0 * c.b, c.a))
    for settings in ({}, {"stack": "rows"}, {"reduce": "dare_ties"}, {"reduce": "mean"}):
        assert not any(x.any() for x in merged(zero, **settings).values())
        assert all(np.isfinite(x).all() for x in merged([zero[0], *experts(1)], **settings).values())
    assert not any(dense(c).any() for _, c in CoreSpace().combine(zero, draws()))


def test_what_cannot_be_merged_is_refused():
    of = experts(0)
    with pytest.raises(MergeError, match="list of experts is empty"):
        merged([])
    with pytest.raises(MergeError, match="expert 2 differs from expert 0 in second"):
        merged([*of[:2], Expert({"first": of[2].changes["first"]})])
    with pytest.raises(MergeError, match="infinite or NaN"):
        merged(mapped(of, lambda c: LowRank(c.b, c.a * np.inf)))
    for space in (column_basis, row_basis, core_basis):
        with pytest.raises(MergeError, match="list of changes is empty"):
            space([])
        with pytest.raises(MergeError, match="change 1 is"):
            space([of[0].changes["first"], of[0].changes["second"]])


def test_no_dense_layer_is_made():
    """At 20,000 x 20,000 one would take 3.2 GB; the factors of one expert take 0.6 MB."""
    of = experts(0, (2, 2, 2), {"wide": (20_000, 20_000)})
    tracemalloc.start()
    for method in (Knots(), CoreSpace(), Knots(stack="rows")):
        for _, change in method.combine(of, draws()):
            assert isinstance(change, LowRank)
            assert change.rank <= 6
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


# ---- Core Space ------------------------------------------------------------------------------------------------------


@given(many(), TOPS)
def test_ties_in_core_space_is_the_transcription_layer_by_layer(of, top):
    """As the public code does: every layer has a cut and a majority of its own."""
    wanted = {}
    for n in of[0].changes:
        u, v, inside = reference_ties.core([(e.changes[n].b, e.changes[n].a) for e in of])
        wanted[n] = u @ reference_ties.ties([{n: m} for m in inside], weights(of), top, 1.0)[n] @ v.T
    same({n: dense(c) for n, c in CoreSpace(host=f"ties(top = {top})").combine(of, draws())}, wanted)


@given(many(), TOPS)
def test_ties_in_core_space_is_the_transcription_over_all_layers(of, top):
    result = {n: reference_ties.core([(e.changes[n].b, e.changes[n].a) for e in of]) for n in of[0].changes}
    inside = [{n: result[n][2][i] for n in result} for i in range(len(of))]
    literal = reference_ties.ties(inside, weights(of), top, 1.0)
    wanted = {n: result[n][0] @ literal[n] @ result[n][1].T for n in result}
    global_cut = CoreSpace(host=f"ties(top = {top})", scope="global")
    same({n: dense(c) for n, c in global_cut.combine(of, draws())}, wanted)


@pytest.mark.parametrize("at", ["combine", "combine_round"])
def test_scopes_of_core_space_differ_where_a_host_decides_over_all_layers_and_nowhere_else(at):
    of = experts(0, (2, 3, 2), {"a": (12, 10), "b": (9, 14), "c": (5, 6)})
    for host, differs in {
        "ties(top = 0.3)": True,
        "task_arithmetic(scale = 0.4)": False,
        "iso": False,
        "magmax": False,
        "dare(drop = 0.3)": False,  # a mask is drawn for an expert and a layer, whoever else is merged
    }.items():
        per_layer, together = (
            {n: dense(c) for n, c in getattr(CoreSpace(host=host, scope=scope), at)(of, draws())}
            for scope in ("layer", "global")
        )
        assert list(per_layer) == ["a", "b", "c"]
        if differs:
            far = [np.linalg.norm(per_layer[n] - together[n]) / np.linalg.norm(together[n]) for n in together]
            assert max(far) > 0.05
        else:
            same(per_layer, together, 1e-12)
    alone = [Expert({"a": e.changes["a"]}, e.weight, e.statistics, e.number) for e in of]
    one = {n: dense(c) for n, c in CoreSpace(host="ties(top = 0.3)").combine(alone, draws())}
    all_layers = dict(CoreSpace(host="ties(top = 0.3)").combine(of, draws()))
    np.testing.assert_array_equal(one["a"], dense(all_layers["a"]))


@given(many())
def test_a_linear_merge_comes_out_of_core_space_as_it_went_in(of):
    inside = CoreSpace(host="task_arithmetic(scale = 0.4)").combine(of, draws())
    plain = TaskArithmetic(scale=0.4).combine(of, draws())
    same({n: dense(c) for n, c in inside}, {n: dense(c) for n, c in plain})


@given(many())
def test_so_does_one_that_turns_with_its_input(of):
    """Here the nearest matrix of rank 1 to the mean; TSV and Iso are of that kind."""

    def nearest(each):
        for layer in each[0].changes:
            yield layer, truncated(stacked([e.changes[layer] for e in each]), 1)[0]

    inside, plain = dict(merge_in_basis(core_basis, of, nearest)), dict(nearest(of))
    same({n: dense(c) for n, c in inside.items()}, {n: dense(c) for n, c in plain.items()}, 1e-7)


def test_core_matrices_are_no_larger_than_the_sum_of_the_ranks():
    of = experts(0, (2, 3), {"layer": (30, 40)})
    assert [c.shape for c in core_basis([e.changes["layer"] for e in of]).coordinates] == [(5, 5), (5, 5)]


@pytest.mark.parametrize(
    "host", ["lorm", "fedavg", "regmean", "fisher", "mats", "emr(router = true)", "no_such", "ties(top = 2)", "ties("]
)
def test_a_host_that_cannot_be_is_a_clear_error(host):
    with pytest.raises(ConfigError, match=r"method\.host = "):
        CoreSpace(host=host)


def test_what_is_hosted_may_not_say_where_it_merges():
    with pytest.raises(ConfigError, match="leave out at"):
        CoreSpace(host='ties(at = "round")')
    with pytest.raises(ConfigError, match="leave out adapter"):
        CoreSpace(host='ties(adapter = "lora")')
