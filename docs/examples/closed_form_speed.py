"""Measure a whole run of a closed form beside a bare forward loop over the same images, one after the other.

    python docs/examples/closed_form_speed.py CONFIG [KEY=VALUE ...]

The loop puts the images that the run sees, training images once for each report and test images for each evaluation,
through the network's own forward pass in the same batches, on as many threads and in the same precision. It has no
labels, no sums, no server. The run's time is its `seconds.total`, after the backbone and the images are loaded.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fcil.config import load_config
from fcil.data.dataset import model_inputs
from fcil.engine.simulation import Session, prepare, simulate
from fcil.exchange.inline import Inline
from fcil.threads import threads


def bare_loop(session: Session) -> float:
    """Seconds of the forward passes alone."""
    plan, worker = session.plan, session.worker
    config, scenario, data = plan.config, worker.scenario, worker.dataset
    batches = []
    for phase in plan.phases:
        for part in scenario.parts[phase.task.index]:
            size = 4 * config.train.batch
            batches += [data.train.images[part[i : i + size]] for i in range(0, len(part), size)]
        if plan.ends_task(phase.index):
            seen = np.concatenate(scenario.tests[: phase.task.index + 1])
            size = config.run.evaluation_batch
            batches += [data.test.images[seen[i : i + size]] for i in range(0, len(seen), size)]
    worker.model.load({})
    start = time.perf_counter()
    with threads(config.run.threads), torch.no_grad():
        for images in batches:
            worker.model.features(model_inputs(images, data, config.model.image_size, device=worker.model.device))
    return time.perf_counter() - start


def main() -> None:
    """Take turns three times, and print each pair and the median ratio."""
    config = load_config(Path(sys.argv[1]), [*sys.argv[2:], "run.exchange=inline"])
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        session = prepare(config, Path(folder))
        bare_loop(session)  # once to warm up
        for turn in range(3):
            loop = bare_loop(session)
            out = Path(folder) / str(turn)
            run = simulate(session, out, exchange=Inline(session.worker))["seconds"]["total"]
            ratios.append(run / loop)
            print(f"run {run:.1f} s, bare forward loop {loop:.1f} s, ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {sorted(ratios)[1]:.2f}")


if __name__ == "__main__":
    main()
