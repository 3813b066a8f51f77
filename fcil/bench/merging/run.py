"""Run the merging benchmark: experts, references, and each merge with its settings that are best on held-out data."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fcil.bench.merging.evaluation import Evaluator, Result, reference_results
from fcil.bench.merging.fine_tuning import (
    MergedModel,
    TrainedExpert,
    check_merge,
    check_trainer,
    load_or_train,
    merge_experts,
)
from fcil.bench.merging.records import make_folder
from fcil.bench.merging.settings import Candidate, Entry, Suite
from fcil.bench.merging.setup import BenchSetup, make_setup
from fcil.errors import ConfigError
from fcil.seeding import generator

__all__ = ["choose_settings", "draw_tasks", "run_suite"]


def draw_tasks(count: int, all_tasks: int, seed: int) -> tuple[int, ...]:
    """Draw the `count` tasks whose experts are merged, by the seed and nested over counts; in their order."""
    permutation = generator(seed, "experts").permutation(all_tasks)
    return tuple(sorted(int(t) for t in permutation[:count]))


def choose_settings(
    entry: Entry, experts: Sequence[TrainedExpert], held_out: Evaluator, by: str
) -> tuple[Candidate, MergedModel]:
    """Choose the candidate that is best on held-out images, the first of equals; return it and its merged model."""
    best: tuple[float, Candidate, MergedModel] | None = None
    for candidate in entry.candidates:
        merged = merge_experts(held_out.setup, candidate.method, experts)
        if len(entry.candidates) == 1:
            return candidate, merged
        value = held_out.criterion(
            held_out.scores(candidate.method, merged.arrays), [e.task.index for e in experts], by
        )
        if best is None or value > best[0]:
            best = value, candidate, merged
    assert best is not None
    return best[1:]


def _results(
    suite: Suite, model: str, setup: BenchSetup, experts: Sequence[TrainedExpert], tell: Callable[[str], None]
) -> Iterator[Result]:
    test = Evaluator(setup, experts, "test")
    for warning in test.weak_expert_warnings():
        tell(f"warning: {model}, seed {setup.config.run.seed}: {warning}")
    any_grid = any(len(entry.candidates) > 1 for entry in suite.entries)
    held_out = Evaluator(setup, experts, "held-out") if any_grid else test
    for count in suite.bench.experts or (len(experts),):
        tasks = draw_tasks(count, len(experts), setup.config.run.seed)
        yield from reference_results(test, model, tasks)
        for entry in suite.entries:
            candidate, merged = choose_settings(entry, [experts[t] for t in tasks], held_out, suite.bench.choose)
            scores = test.scores(candidate.method, merged.arrays)
            yield test.result(model, tasks, entry.text, scores, str(candidate), merged.seconds)
            setup.forget_reports()


def _check(suite: Suite, setup: BenchSetup) -> None:
    check_trainer(setup)
    tasks = len(setup.plan.census.tasks)
    if tasks < 2:
        raise ConfigError(f"tasks.count = {tasks}: merging takes two tasks at least")
    if max(suite.bench.experts, default=0) > tasks:
        raise ConfigError(f"bench.experts = {list(suite.bench.experts)}: there are only {tasks} tasks")
    for entry in suite.entries:
        for candidate in entry.candidates:
            check_merge(setup, candidate.method, entry.text)


def run_suite(suite: Suite, seeds: Sequence[int], out: Path, tell: Callable[[str], None]) -> Iterator[Result]:
    """Run a benchmark, yielding each result as it is found; all that can be checked is checked before the first.

    Args:
        seeds: seeds of the benchmark; each has its own split, experts and merges.
        out: the benchmark's folder, which is made once all is checked; experts are kept there.
        tell: called with a line of text as the work goes on.

    Raises:
        ConfigError: settings, data or weights that cannot work.
        RunError: an expert that diverged or learned nothing.
        MergeError: a method cannot merge these experts.
    """
    share = suite.bench.held_out
    setups = [(label, make_setup(suite.config(label, seed), share)) for label in suite.configs for seed in seeds]
    for _, setup in setups:
        _check(suite, setup)
    folder = make_folder(out)
    while setups:
        label, setup = setups.pop(0)  # its backbone goes with it
        experts = []
        for task in setup.plan.census.tasks:
            expert, trained = load_or_train(setup, task, folder)
            tell(f"{label}, seed {setup.config.run.seed}: expert {task.index + 1} {'trained' if trained else 'found'}")
            experts.append(expert)
        yield from _results(suite, label, setup, experts, tell)
