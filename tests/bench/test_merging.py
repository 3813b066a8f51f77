"""The merging benchmark: its measures, how settings are chosen, and that nothing of a method is special-cased."""

import re
import tomllib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import BENCH

from fcil.arrays import grouped
from fcil.bench.merging.evaluation import Evaluator, Result
from fcil.bench.merging.fine_tuning import HEAD, MODULE, TrainedExpert, fine_tune, load_or_train, merge_experts
from fcil.bench.merging.run import choose_settings, draw_tasks, run_suite
from fcil.bench.merging.scoring import Scores, accuracy, highest_probability, hits, mean_probabilities
from fcil.bench.merging.settings import load_suite, make_entry
from fcil.bench.merging.setup import BenchSetup, hold_out, make_setup
from fcil.config import from_table
from fcil.engine.simulation import prepare
from fcil.errors import ConfigError
from fcil.exchange.inline import Inline
from fcil.method import Task
from fcil.registry import build_method
from fcil.server.loop import run
from fcil.server.plan import initial_progress


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """A setup and its three experts."""
    folder = tmp_path_factory.mktemp("experts")
    path = folder / "small.toml"
    path.write_text(BENCH)
    setup = make_setup(load_suite(path).config("fcil_vit_tiny", 0), 0.25)
    return setup, [load_or_train(setup, task, folder)[0] for task in setup.plan.census.tasks], folder


# ---- measures --------------------------------------------------------------------------------------------------------


@st.composite
def scored(draw):
    """Few distinct scores, so that many are equal."""
    n, classes = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Scores(rng.integers(0, 4, (n, classes)).astype(np.float32), rng.integers(0, classes, n))


@given(scored(), st.integers(1, 6))
def test_hits_at_k_counts_labels_among_the_first_k_of_a_stable_sort(s, k):
    classes = range(s.scores.shape[1])
    first = np.argsort(-s.scores, 1, kind="stable")[:, :k]
    assert hits(s, classes, k) == np.mean([label in row for label, row in zip(s.labels, first, strict=True)])
    assert accuracy(s, classes) == np.mean(s.scores.argmax(1) == s.labels)


def test_only_samples_and_scores_of_the_classes_asked_for_count():
    s = Scores(np.array([[9, 1, 2, 0], [9, 3, 2, 0], [0, 0, 9, 1.0]]), np.array([1, 1, 0]))
    assert accuracy(s, [1, 2]) == 0.5
    assert hits(s, [1, 2], 2) == 1
    assert accuracy(s, [0]) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_wrong_at_any_k(bad):
    s = Scores(np.array([[bad, 0.0], [1.0, 0.0]]), np.array([0, 0]))
    assert hits(s, [0, 1], 1) == hits(s, [0, 1], 2) == 0.5


def test_ensembles_by_hand():
    first = Scores(np.log([[0.6, 0.2, 0.1, 0.1]]), np.array([0]))
    second = Scores(np.log([[0.1, 0.1, 0.4, 0.4]]), np.array([0]))
    np.testing.assert_allclose(mean_probabilities([first, second]).scores, [[0.35, 0.15, 0.25, 0.25]])
    np.testing.assert_allclose(highest_probability([first, second], [[0, 1], [2, 3]]).scores, [[0.75, 0.25, 0.5, 0.5]])
    only = highest_probability([first], [[0, 1]])
    assert accuracy(only, [0, 1, 2, 3]) == 1
    assert (only.scores[:, 2:] < only.scores[:, :2].min()).all()


def test_normalised_accuracy_and_what_is_held_in_and_out():
    r = Result("m", 0, (0, 2), "x", True, "", (0.4, 0.3, 0.9), (0.8, 0.6, 0.9), (0, 0, 0))
    np.testing.assert_allclose(r.normalised, (0.5, 0.5, 1.0))
    assert (r.on_merged_tasks, r.on_other_tasks) == pytest.approx((0.75, 0.5))
    assert np.isnan(replace(r, tasks=(0, 1, 2)).on_other_tasks)


# ---- the data in three parts -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(2, 20), min_size=1, max_size=4), st.floats(0.05, 0.5), st.integers(0, 9))
def test_every_class_is_split_in_the_wanted_share(sizes, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    fit, held = hold_out(labels, share, np.random.default_rng(seed))
    assert sorted([*fit, *held]) == list(range(len(labels)))
    counts = np.bincount(labels[held], minlength=len(sizes))
    assert all(1 <= c < n and abs(c - share * n) <= 1 for c, n in zip(counts, sizes, strict=True))


def test_a_class_with_one_image_cannot_be_split():
    with pytest.raises(ConfigError, match=r"bench.held_out.*1 training images"):
        hold_out(np.array([0, 0, 0, 1]), 0.2, np.random.default_rng(0))


def test_nobody_trains_on_held_out_images_and_the_test_part_is_the_data_sets_own(experts):
    setup, _, _ = experts
    for t, (fit, held) in enumerate(zip(setup.train_indices, setup.held_out_indices, strict=True)):
        assert not set(fit) & set(held)
        assert sorted([*fit, *held]) == setup.session.worker.scenario.parts[t][0].tolist()
    labels = setup.session.worker.dataset.test.labels
    chosen = np.concatenate(setup.session.worker.scenario.tests)
    test = setup.scores(setup.plan.method, {**experts[1][0].module, **heads(experts[1])}, "test")
    np.testing.assert_array_equal(test.labels, labels[chosen])


@given(st.integers(1, 9), st.integers(0, 99))
def test_experts_of_a_draw_are_nested(tasks, seed):
    draws = [draw_tasks(count, tasks, seed) for count in range(1, tasks + 1)]
    assert all(set(a) < set(b) for a, b in pairwise(draws))
    assert draws[-1] == tuple(range(tasks))


@pytest.fixture
def suite_of(tmp_path):
    """Write a benchmark whose experts have an adapter, with these merges; gives the suite."""

    def suite(adapter, *methods):
        path = tmp_path / "small.toml"
        text = BENCH.replace("rank = 2}", f"rank = 2, adapter = '{adapter}'}}")
        path.write_text(re.sub(r"methods = \[.*\]", f"methods = {list(methods)}", text))
        return load_suite(path)

    return suite


def test_merges_take_the_experts_adapter(suite_of, tmp_path):
    shares = []
    told = [lambda line: None, lambda text, share: shares.append(share)]
    results = list(run_suite(suite_of("full", "task_arithmetic"), [0], tmp_path / "out", *told))
    assert shares == pytest.approx([k / len(shares) for k in range(len(shares))])  # what a bar shows: all, each once
    setup = make_setup(suite_of("full", "task_arithmetic").config("fcil_vit_tiny", 0), 0.2)
    each = [load_or_train(setup, task, tmp_path / "out")[0] for task in setup.plan.census.tasks]
    mean = {n: np.mean([e.module[n] for e in each], 0, np.float64).astype(np.float32) for n in each[0].module}
    test = Evaluator(setup, each, "test")
    expected = test.result("m", (0, 1, 2), "x", test.scores(setup.plan.method, mean))
    (merged,) = [r for r in results if r.merge and len(r.tasks) == 3]
    assert merged.accuracy == expected.accuracy
    assert max(np.abs(a).max() for a in mean.values()) > 0


def test_merges_of_another_adapter_and_experts_without_a_common_start_are_refused(suite_of, tmp_path):
    for adapter, method, told in (
        ("full", "lorm", "not of one adapter"),
        ("full", 'ties(adapter = "lora")', "not of one adapter"),
        ("snell", "ties", "does not begin at zero"),
        ("loftq(iterations = 1)", "ties", "fixed arrays"),
    ):
        with pytest.raises(ConfigError, match=told):
            next(run_suite(suite_of(adapter, method), [0], tmp_path / "out", lambda line: None))


# ---- merges ----------------------------------------------------------------------------------------------------------


def heads(tuned):
    return {name: a for e in tuned for name, a in e.head.items()}


def test_a_merge_in_the_benchmark_is_the_merge_of_a_run_with_one_client(bench_file):
    """Experts taken out of a finished run of compose give the very arrays that the run deployed."""
    config = from_table([
        ("small", {key: value for key, value in tomllib.loads(BENCH).items() if key != "bench"}),
        ("one", {"partition": {"clients": 1, "kind": "iid", "min_samples": 1}}),
        ("test", {"method": {"name": "compose", "rank": 2, "round": "fedavg", "task": "lorm"}}),
    ])  # fmt: skip
    session = prepare(config)
    done = run(session.plan, initial_progress(session.plan), Inline(session.worker), lambda e: None, lambda p: None)
    deployed = session.plan.method.deploy(done.state, session.plan.phases[-1])
    past = grouped({name.replace("/", ":", 1): a for name, a in done.state["past"].items()})
    modules = [*(past[f"task{t}"] for t in range(2)), done.state[MODULE]]
    setup = make_setup(load_suite(bench_file).config("fcil_vit_tiny", 0), 0.25)
    setup = replace(setup, train_indices=tuple(parts[0] for parts in session.worker.scenario.parts))
    tuned = [
        TrainedExpert(task, modules[task.index], {n: a for n, a in done.state[HEAD].items() if f".{task.index}." in n})
        for task in session.plan.census.tasks
    ]
    merged = merge_experts(setup, build_method("lorm", {"rank": 2}), tuned).arrays
    assert merged.keys() == deployed.keys()
    for name, a in deployed.items():
        np.testing.assert_array_equal(merged[name], a, err_msg=name)


def same(left, right):
    assert left.keys() == right.keys()
    for name, a in left.items():
        np.testing.assert_array_equal(a, right[name])


def test_an_expert_depends_on_its_own_task_only(experts):
    setup, tuned, folder = experts
    other = replace(setup, train_indices=(setup.train_indices[0][:5], *setup.train_indices[1:]))
    again = fine_tune(other, tuned[1].task)
    same(again.module, tuned[1].module)
    same(again.head, tuned[1].head)
    assert not load_or_train(other, tuned[1].task, folder)[1]
    assert load_or_train(other, tuned[0].task, folder)[1]


def test_kept_experts_are_used_again_and_damaged_ones_are_trained_again(experts, tmp_path):
    setup, tuned, _ = experts
    first, now = load_or_train(setup, tuned[0].task, tmp_path)
    assert now
    (path,) = tmp_path.iterdir()
    result, now = load_or_train(setup, tuned[0].task, tmp_path)
    assert not now
    same(result.module, first.module)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    mended, now = load_or_train(setup, tuned[0].task, tmp_path)
    assert now
    same(mended.module, first.module)
    assert list(tmp_path.iterdir()) == [path]


def test_scale_zero_is_w0_and_one_expert_merged_is_that_expert(experts):
    setup, tuned, _ = experts
    evaluator = Evaluator(setup, tuned, "test")
    nothing = merge_experts(setup, build_method("task_arithmetic", {"rank": 2, "scale": 0.0}), tuned)
    method = build_method("task_arithmetic", {"rank": 2})
    np.testing.assert_allclose(
        evaluator.scores(method, nothing.arrays).scores, evaluator.scores(method, {}).scores, atol=1e-5
    )  # fmt: skip
    single = merge_experts(setup, method, tuned[1:2])
    np.testing.assert_array_equal(evaluator.scores(method, single.arrays).scores, evaluator.expert_scores[1].scores)
    assert evaluator.normalised(evaluator.expert_scores[1])[1] == 1


def test_an_expert_that_only_guesses_is_told(experts):
    """Tasks of 4, 4 and 2 classes: a quarter, a quarter and a half are right by guessing."""
    setup, tuned, _ = experts
    evaluator = Evaluator(setup, tuned, "test")
    evaluator.expert_accuracy = [0.5, 0.26, 0.9]
    (warning,) = evaluator.weak_expert_warnings()
    assert warning.startswith(
        "the expert of task 2 is right on 26.0 % of its own test images, where guessing gives 25.0 %"
    )
    evaluator.expert_accuracy = [1.0, 1.0, 0.5]
    assert [warning[:20] for warning in evaluator.weak_expert_warnings()] == ["the expert of task 3"]
    evaluator.tasks = [Task(i, i, 1) for i in range(3)]
    assert not list(evaluator.weak_expert_warnings())


def test_the_mean_of_two_methods_is_the_same(experts):
    setup, tuned, _ = experts
    evaluator = Evaluator(setup, tuned, "test")
    both = [build_method("task_arithmetic", {"rank": 2}), build_method("lorm", {"rank": 2, "task_merge": "mean"})]
    left, right = (evaluator.scores(m, merge_experts(setup, m, tuned).arrays).scores for m in both)
    np.testing.assert_allclose(left, right, atol=1e-4)


def test_a_report_is_taken_once_for_all_that_ask_the_same(experts, monkeypatch):
    setup, tuned, _ = experts
    setup.forget_reports()
    asked, update = [], BenchSetup.update
    monkeypatch.setattr(BenchSetup, "update", lambda self, *a: asked.append(a) or update(self, *a))
    merged = [merge_experts(setup, build_method("lorm", {"rank": 2, "head_gram_shrink": s}), tuned) for s in (0.5, 0.4)]
    assert len(asked) == 3
    merge_experts(setup, build_method("lorm", {"rank": 2, "gram_passes": 2}), tuned)
    assert len(asked) == 6
    for name, a in merged[0].arrays.items():
        np.testing.assert_array_equal(a, merged[1].arrays[name])
    setup.forget_reports()


@pytest.mark.parametrize("by", ["normalised", "hits"])
def test_the_chosen_setting_is_best_on_the_held_out_images(experts, by):
    setup, tuned, _ = experts
    held = Evaluator(setup, tuned, "held-out")
    built = make_entry("task_arithmetic", {"task_arithmetic": {"scale": [0.0, 0.5, 1.0, 3.0]}}, {"rank": 2}, "x")
    candidate, merged = choose_settings(built, tuned, held, by)
    values = [
        held.criterion(held.scores(c.method, merge_experts(setup, c.method, tuned).arrays), range(3), by)
        for c in built.candidates
    ]
    assert candidate is built.candidates[int(np.argmax(values))]
    assert merged.arrays.keys() >= heads(tuned).keys()


def test_test_images_decide_nothing(bench_file, tmp_path):
    """Other test images, the same choices and the same experts."""
    chosen = []
    for limit in (80, 40):
        suite = load_suite(bench_file, [f"data.test_limit={limit}"])
        result = list(run_suite(suite, [0], tmp_path / str(limit), lambda text: None))
        chosen.append([r.settings for r in result])
    assert chosen[0] == chosen[1]
    assert any(re.fullmatch(r"scale = [01]\.0", settings) for settings in chosen[0])
