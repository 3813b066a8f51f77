"""Write the merging benchmark's folder: every result so far, tables of means over seeds, and plots.

results.json   every line of every seed, the settings of every backbone, versions and commit
table.csv, .md means over seeds
*.png          a plot per backbone, and one of a sweep over numbers of experts
experts/       fine-tuned experts, used again while nothing that they depend on changes
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fcil.bench.merging.evaluation import Result
from fcil.bench.merging.plots import accuracy_by_expert_count, accuracy_by_method
from fcil.bench.merging.settings import Suite
from fcil.bench.merging.tables import mean_lines, to_csv, to_markdown
from fcil.config import to_table
from fcil.engine.provenance import commit
from fcil.errors import ConfigError
from fcil.exchange.versions import versions
from fcil.files import write_atomic

__all__ = ["draw_all", "make_folder", "write"]

EXPERTS = "experts"


def make_folder(out: Path) -> Path:
    """Make the benchmark's folder and return its subfolder of experts; raises ConfigError if that fails."""
    try:
        (out / EXPERTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be made ({error.strerror}); choose another --output") from None
    return out / EXPERTS


def _file_name(label: str) -> str:
    """Replace what a file's name should not hold in a label."""
    return re.sub(r"[^\w.-]+", "_", label)


def write(out: Path, suite: Suite, results: Sequence[Result]) -> None:
    """Write the results so far and their tables; every file is whole at any time."""
    record = {
        "commit": commit(), "versions": versions(), "bench": asdict(suite.bench),
        "configs": {label: to_table(config) for label, config in suite.configs.items()},
        "results": [asdict(r) for r in results],
    }  # fmt: skip
    write_atomic(out / "results.json", (json.dumps(record, indent=1) + "\n").encode())
    write_atomic(out / "table.csv", to_csv(results).encode())
    write_atomic(out / "table.md", to_markdown(results).encode())


def draw_all(out: Path, results: Sequence[Result]) -> None:
    """Plot each backbone's merges of most experts, and all against the number of experts if that differs."""
    lines = mean_lines(results)
    counts = {line.experts for line in lines}
    if len(counts) > 1:
        accuracy_by_expert_count(out / "sweep.png", lines)
    for model in dict.fromkeys(line.model for line in lines):
        of_model = [line for line in lines if line.model == model and line.experts == max(counts)]
        accuracy_by_method(out / f"merged-{_file_name(model)}.png", of_model, f"{model}, {max(counts)} experts")
