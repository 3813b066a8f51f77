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
from fcil.data.progress import Step
from fcil.errors import ConfigError
from fcil.seeding import generator

__all__ = ["choose_settings", "draw_tasks", "run_suite"]


def draw_tasks(count: int, all_tasks: int, seed: int) -> tuple[int, ...]:
    """Draw the `count` tasks whose experts are merged, by the seed and nested over counts; in their order."""
    permutation = generator(seed, "experts").permutation(all_tasks)
    return tuple(sorted(int(t) for t in permutation[:count]))


def choose_settings(
    entry: Entry,
    experts: Sequence[TrainedExpert],
    held_out: Evaluator,
    by: str,
    begin: Callable[[str], None] = lambda text: None,
) -> tuple[Candidate, MergedModel]:
    """Choose the candidate that is best on held-out images, the first of equals; return it and its merged model.

    Args:
        begin: called with the name of each candidate before it is merged.
    """
    best: tuple[float, Candidate, MergedModel] | None = None
    for candidate in entry.candidates:
        begin(f"{entry.text} {candidate}".rstrip())
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
    suite: Suite,
    model: str,
    setup: BenchSetup,
    experts: Sequence[TrainedExpert],
    tell: Callable[[str], None],
    begin: Callable[[str], None],
) -> Iterator[Result]:
    begin("the experts themselves")
    test = Evaluator(setup, experts, "test")
    for warning in test.weak_expert_warnings():
        tell(f"warning: {model}, seed {setup.config.run.seed}: {warning}")
    any_grid = any(len(entry.candidates) > 1 for entry in suite.entries)
    held_out = Evaluator(setup, experts, "held-out") if any_grid else test
    for count in suite.bench.experts or (len(experts),):
        tasks = draw_tasks(count, len(experts), setup.config.run.seed)
        begin("references")
        yield from reference_results(test, model, tasks)
        for entry in suite.entries:
            candidate, merged = choose_settings(entry, [experts[t] for t in tasks], held_out, suite.bench.choose, begin)
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


class _Counter:
    """Counts pieces of work, equal in length for want of a better guess, and tells the share that is done."""

    def __init__(self, total: int, step: Step) -> None:
        self.total, self.step, self.done = total, step, 0

    def begin(self, text: str) -> None:
        """Begin a piece of work, whatever was begun before being done."""
        self.step(text, self.done / self.total)
        self.done += 1


def _pieces(suite: Suite, setups: Sequence[tuple[str, BenchSetup]]) -> int:
    """The number of experts, and of merges and references to evaluate, in all."""
    merges = 1 + sum(len(entry.candidates) for entry in suite.entries)  # 1: the references
    return sum(len(setup.plan.census.tasks) + 1 + max(1, len(suite.bench.experts)) * merges for _, setup in setups)


def run_suite(
    suite: Suite, seeds: Sequence[int], out: Path, tell: Callable[[str], None], step: Step = lambda text, share: None
) -> Iterator[Result]:
    """Run a benchmark, yielding each result as it is found; all that can be checked is checked before the first.

    Args:
        seeds: seeds of the benchmark; each has its own split, experts and merges.
        out: the benchmark's folder, which is made once all is checked; experts are kept there.
        tell: called with a line of text as the work goes on.
        step: told of every expert and merge before the work on it begins.

    Raises:
        ConfigError: settings, data or weights that cannot work.
        RunError: an expert that diverged or learned nothing.
        MergeError: a method cannot merge these experts.
    """
    share = suite.bench.held_out
    setups = [(label, make_setup(suite.config(label, seed), share)) for label in suite.configs for seed in seeds]
    for _, setup in setups:
        _check(suite, setup)
    folder, counter = make_folder(out), _Counter(_pieces(suite, setups), step)
    while setups:
        label, setup = setups.pop(0)  # its backbone goes with it
        where = f"{label}, seed {setup.config.run.seed}"
        experts = []
        for task in setup.plan.census.tasks:
            counter.begin(f"{where}: expert {task.index + 1}")
            expert, trained = load_or_train(setup, task, folder)
            tell(f"{where}: expert {task.index + 1} {'trained' if trained else 'found'}")
            experts.append(expert)
        yield from _results(suite, label, setup, experts, tell, counter.begin)
