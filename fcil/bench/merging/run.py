"""The benchmark itself: experts, references, and every merge with the settings that are best on held-out images."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fcil.bench.merging.evaluation import Judge, Result, references
from fcil.bench.merging.fine_tuning import Deployed, Tuned, check_merge, check_trainer, deploy, expert
from fcil.bench.merging.records import make_folder
from fcil.bench.merging.settings import Candidate, Entry, Suite
from fcil.bench.merging.setup import Stage, open_stage
from fcil.errors import ConfigError
from fcil.seeding import generator

__all__ = ["carry_out", "chosen_tasks"]


def chosen_tasks(count: int, all_tasks: int, seed: int) -> tuple[int, ...]:
    """Which experts are merged where `count` are wanted: nested over counts, drawn by the seed, in their order."""
    drawn = generator(seed, "experts").permutation(all_tasks)
    return tuple(sorted(int(t) for t in drawn[:count]))


def choose(entry: Entry, experts: Sequence[Tuned], held: Judge, by: str) -> tuple[Candidate, Deployed]:
    """The candidate that is best on held-out images, the first of equals, and its merged model."""
    best: tuple[float, Candidate, Deployed] | None = None
    for candidate in entry.candidates:
        merged = deploy(held.stage, candidate.method, experts)
        if len(entry.candidates) == 1:
            return candidate, merged
        value = held.value(held.scores(candidate.method, merged.arrays), [e.task.index for e in experts], by)
        if best is None or value > best[0]:
            best = value, candidate, merged
    assert best is not None
    return best[1:]


def _stage_results(
    suite: Suite, model: str, stage: Stage, experts: Sequence[Tuned], tell: Callable[[str], None]
) -> Iterator[Result]:
    test = Judge(stage, experts, "test")
    for doubt in test.doubts():
        tell(f"warning: {model}, seed {stage.config.run.seed}: {doubt}")
    tried = any(len(entry.candidates) > 1 for entry in suite.entries)
    held = Judge(stage, experts, "held") if tried else test
    for count in suite.bench.experts or (len(experts),):
        tasks = chosen_tasks(count, len(experts), stage.config.run.seed)
        yield from references(test, model, tasks)
        for entry in suite.entries:
            candidate, merged = choose(entry, [experts[t] for t in tasks], held, suite.bench.choose)
            scored = test.scores(candidate.method, merged.arrays)
            yield test.result(model, tasks, entry.text, scored, str(candidate), merged.seconds)
            stage.forget()


def _check(suite: Suite, stage: Stage) -> None:
    check_trainer(stage)
    tasks = len(stage.plan.scenario.tasks)
    if tasks < 2:
        raise ConfigError(f"tasks.count = {tasks}: merging takes two tasks at least")
    if max(suite.bench.experts, default=0) > tasks:
        raise ConfigError(f"bench.experts = {list(suite.bench.experts)}: there are only {tasks} tasks")
    for entry in suite.entries:
        for candidate in entry.candidates:
            check_merge(stage, candidate.method, entry.text)


def carry_out(suite: Suite, seeds: Sequence[int], out: Path, tell: Callable[[str], None]) -> Iterator[Result]:
    """Every line of every seed and backbone, as it is found; all that can be checked is checked before the first.

    Args:
        out: the benchmark's folder, which is made once all is checked; experts are kept there.
        tell: called with a line of text as the work goes on.

    Raises:
        ConfigError: settings, data or weights that cannot work.
        RunError: an expert that diverged or learned nothing.
        MergeError: a method cannot merge these experts.
    """
    share = suite.bench.held_out
    stages = [(label, open_stage(suite.config(label, seed), share)) for label in suite.configs for seed in seeds]
    for _, stage in stages:
        _check(suite, stage)
    folder = make_folder(out)
    while stages:
        label, stage = stages.pop(0)  # its backbone goes with it
        experts = []
        for task in stage.plan.scenario.tasks:
            made, now = expert(stage, task, folder)
            tell(f"{label}, seed {stage.config.run.seed}: expert {task.index + 1} {'trained' if now else 'found'}")
            experts.append(made)
        yield from _stage_results(suite, label, stage, experts, tell)
