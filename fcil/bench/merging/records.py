"""The benchmark's folder: every line found so far, tables of means over seeds, and pictures.

results.json   every line of every seed, the settings of every backbone, versions and commit
table.csv, .md means over seeds
*.png          a picture per backbone, or one of a sweep over numbers of experts
experts/       fine-tuned experts, used again while nothing that they depend on changes
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fcil.bench.merging.evaluation import Result
from fcil.bench.merging.plots import merged, sweep
from fcil.bench.merging.settings import Suite
from fcil.bench.merging.tables import lines, to_csv, to_markdown
from fcil.config import to_table
from fcil.engine.provenance import commit, versions
from fcil.engine.records import write_atomic
from fcil.errors import ConfigError

__all__ = ["draw_all", "make_folder", "write"]

EXPERTS = "experts"


def make_folder(out: Path) -> Path:
    """Make the folder; where experts are kept. Raises ConfigError where that cannot be."""
    try:
        (out / EXPERTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be made ({error.strerror}); choose another --output") from None
    return out / EXPERTS


def _file(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", label)


def write(out: Path, suite: Suite, results: Sequence[Result]) -> None:
    """Write what is known so far; every file is whole at any time."""
    told = {
        "commit": commit(), "versions": versions(), "bench": asdict(suite.bench),
        "configs": {label: to_table(config) for label, config in suite.configs.items()},
        "results": [asdict(r) for r in results],
    }  # fmt: skip
    write_atomic(out / "results.json", (json.dumps(told, indent=1) + "\n").encode())
    write_atomic(out / "table.csv", to_csv(results).encode())
    write_atomic(out / "table.md", to_markdown(results).encode())


def draw_all(out: Path, results: Sequence[Result]) -> None:
    """A picture per backbone where every expert was merged, and one of a sweep where their number differs."""
    made = lines(results)
    counts = {line.experts for line in made}
    if len(counts) > 1:
        sweep(out / "sweep.png", made)
    for model in dict.fromkeys(line.model for line in made):
        mine = [line for line in made if line.model == model and line.experts == max(counts)]
        merged(out / f"merged-{_file(model)}.png", mine, f"{model}, {max(counts)} experts")
