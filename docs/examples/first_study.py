# %% [markdown]
# # A first study: which method loses least when clients are skewed?
#
# A notebook in the percent format: VS Code and PyCharm run it cell by cell, and
# `jupytext --to notebook docs/examples/first_study.py` makes an .ipynb of it (`pip install jupytext`).
# `python docs/examples/first_study.py` runs it from end to end: seconds, on the embedded digits.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import fcil

OUTPUT = Path("runs/first-study")

# %% [markdown]
# Settings: only what differs from the defaults, which `fcil settings` lists. For figures that mean something remove
# the limits, and raise rounds, epochs and the number of seeds below.

# %%
settings = {
    "data": {"name": "digits", "train_limit": 200, "test_limit": 100},
    "tasks": {"count": 2},
    "partition": {"clients": 3, "min_samples": 1},
    "model": {"image_size": 16},
    "train": {"rounds": 2, "epochs": 1},
    "method": {"name": "lorm", "rank": 4},
}

# %% [markdown]
# One run: its settings, figures and accuracies, and how the loss of the clients went.

# %%
run = fcil.run(settings, output=OUTPUT / "one")
print(run)
print(np.round(100 * run.accuracy, 1))
for event in run.events:
    if "loss" in event:
        print(f"task {event['task'] + 1}, round {event['round']}, client {event['client']}: loss {event['loss']:.2f}")

# %% [markdown]
# Three methods at two degrees of skew, from nearly even (beta 10) to strong (beta 0.5); `sweep` makes a table of each.

# %%
study = fcil.compare(
    {**settings, "sweep": {"partition.beta": [10.0, 0.5]}},
    methods=["lorm", "fedavg", "ridge"],
    seeds=[0],
    output=OUTPUT / "skew",
)
print(study)

# %% [markdown]
# Final accuracy against skew, one line a method. More seeds give the error bars something to say.

# %%
figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
betas = [float(value.partition("=")[2]) for value in study.tables]
for label in ("lorm", "fedavg", "ridge"):
    rows = [row for rows in study.tables.values() for row in rows if row.label == label]
    means = [100 * row.figures["final_accuracy_mean"] for row in rows]
    spread = np.nan_to_num([100 * row.figures["final_accuracy_std"] for row in rows])
    axes.errorbar(betas, means, spread, marker="o", capsize=3, label=label)
axes.set_xscale("log")
axes.set_xlabel("Dirichlet concentration beta (small is skewed)")
axes.set_ylabel("final accuracy [%]")
axes.legend()
figure.savefig(OUTPUT / "skew.png", dpi=120)
print(f"drawn: {OUTPUT / 'skew.png'}")

# %% [markdown]
# What the best run sent, and where its pictures are.

# %%
best = max(study.runs, key=lambda each: each.final_accuracy)
up, down = best.upload_bytes / 1e6, best.download_bytes / 1e6
print(f"{best.method}: {up:.2f} MB up, {down:.2f} MB down in {best.seconds:.0f} s")
print(*best.plots, sep="\n")
