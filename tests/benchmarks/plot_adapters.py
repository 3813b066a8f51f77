"""Draw accuracy of adapters against the numbers that train and against peak memory, and print the table.

    fcil compare configs/adapters/central.toml --output runs/central
    python tests/benchmarks/bench_adapters.py --shapes vit_small_patch14_dinov2.lvd142m --image 56 --batch 32 --rank 8 \
        --cases head,snell,snella,full --json a.json
    python tests/benchmarks/bench_adapters.py ... --rank 9 --cases lora,loftq --json b.json
    python tests/benchmarks/plot_adapters.py runs/central docs/images/adapters.png a.json b.json
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fcil import open_run
from fcil.report.figure import draw, mark


def accuracies(folder: Path) -> dict[str, list[float]]:
    """Label -> final accuracy of each seed, in percent."""
    found: dict[str, list[float]] = {}
    for run in sorted(folder.glob("*-seed*")):
        if (run / "summary.json").exists():
            label = run.name.rpartition("-seed")[0]
            found.setdefault(label, []).append(100 * open_run(run).final_accuracy)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of adapters against numbers that train and peak memory.")
    parser.add_argument("comparison", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("memory", type=Path, nargs="+", help="files of bench_adapters.py --json")
    args = parser.parse_args()
    costs = {case: r for file in args.memory for by in json.loads(file.read_text()).values() for case, r in by.items()}
    found = accuracies(args.comparison)
    print("| | final accuracy [%] | trained, M | peak memory, MB | s a step |\n|---|---:|---:|---:|---:|")
    for label, values in found.items():
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        r = costs[label]
        print(
            f"| `{label}` | {np.mean(values):.1f}{spread} | {r['trained']:.2f} | {r['peak']:.0f} | {r['seconds']:.1f} |"
        )

    def paint(figure: Figure, axes: Axes) -> None:
        axes.remove()
        left, right = figure.subplots(1, 2, sharey=True)
        for i, (label, values) in enumerate(found.items()):
            y, look = np.array(values), mark(i)
            alike = [other for other in found if abs(costs[other]["trained"] / costs[label]["trained"] - 1) < 0.05]
            beside = 1.2 ** (alike.index(label) - (len(alike) - 1) / 2)  # those that train as many, beside each other
            for panel, x in ((left, costs[label]["trained"] * beside), (right, costs[label]["peak"])):
                panel.plot([x] * len(y), y, look.marker, color=look.colour, alpha=0.35, markersize=3)
                panel.plot([x], [y.mean()], look.marker, color=look.colour, label=label)
        left.set_xscale("log")
        left.set_xticks([0.03, 0.1, 1, 10], labels=["0.03", "0.1", "1", "10"])
        left.minorticks_off()
        left.set_xlabel("numbers that train [million]")
        right.set_xlim(0)
        right.set_xlabel("peak memory of a step [MB]")
        left.set_ylabel("final accuracy [%]")
        for panel in (left, right):
            panel.grid(axis="y")
        figure.legend(*left.get_legend_handles_labels(), loc="outside right upper")

    draw(args.picture, (6.5, 2.6), paint)


if __name__ == "__main__":
    main()
