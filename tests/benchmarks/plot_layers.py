r"""Draw where backbones hold what: final accuracy over the layer whose tokens are used, one panel a data set.

fcil compare configs/closed_forms/layers_fashion.toml --output runs/fashion      # and of icons, digits
python tests/benchmarks/plot_layers.py docs/images/layers.png \
    "Fashion-MNIST=runs/fashion" "icons=runs/icons" "digits=runs/digits"
"""

import argparse
import csv
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fcil.report.figure import draw, mark


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Label -> (layer, final accuracy in percent), in the order of layers."""
    with (folder / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        point = int(row["method.layers"]), 100 * float(row["final_accuracy_mean"])
        found.setdefault(row["method"], []).append(point)
    return {label: sorted(points) for label, points in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy over layers, one panel a data set.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("sweeps", nargs="+", help="TITLE=FOLDER of a comparison that sweeps over method.layers")
    args = parser.parse_args()
    sweeps = {title: curves(Path(folder)) for title, _, folder in (text.partition("=") for text in args.sweeps)}
    labels = list(dict.fromkeys(label for sweep in sweeps.values() for label in sweep))

    def paint(figure: Figure, axes: Axes) -> None:
        axes.remove()
        for panel, (title, sweep) in zip(figure.subplots(1, len(sweeps)), sweeps.items(), strict=True):
            for label, points in sweep.items():
                look = mark(labels.index(label))
                panel.plot(
                    *zip(*points, strict=True),
                    color=look.colour,
                    marker=look.marker,
                    linestyle=look.dashes,
                    label=label,
                )
            panel.set(title=title, xlabel="layer")
            panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            panel.grid(axis="y")
        figure.axes[0].set_ylabel("final accuracy, %")
        lines = {str(line.get_label()): line for panel in figure.axes for line in panel.lines}
        figure.axes[0].legend([lines[label] for label in labels], labels, title="tokens")

    draw(args.picture, (6.6, 2.5), paint)


if __name__ == "__main__":
    main()
