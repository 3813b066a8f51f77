"""What closed-form classifiers send, to the byte, and what ten thousand random features cost the server."""

import subprocess
import sys
from pathlib import Path

import pytest

from fcil.engine.simulation import prepare, simulate
from fcil.model.backbone import describe_backbone

ROOT = Path(__file__).parents[2]
CLIENTS, CLASSES = 3, (5, 5)
RANPAC = {"name": "ranpac", "size": 30, "penalty": 1.0}


def half(n):
    return n * (n + 1) // 2


@pytest.mark.parametrize(
    ("method", "numbers", "bytes_each"),
    [
        ({"name": "ncm"}, lambda d, c: c * d + c, 8),
        ({"name": "ridge", "penalty": 1.0}, lambda d, c: half(d) + c * d + c, 8),
        ({"name": "ridge"}, lambda d, c: 2 * (half(d) + c * d + c), 8),
        (RANPAC, lambda d, c: half(30) + c * 30 + c, 8),
        ({**RANPAC, "wire": "float32"}, lambda d, c: half(30) + c * 30 + c, 4),
        ({**RANPAC, "sketch": 4, "wire": "float32"}, lambda d, c: 4 * 30 + c * 30 + c, 4),
    ],
)
def test_upload_is_the_formula_to_the_byte_and_nothing_is_sent_down(
    method, numbers, bytes_each, digits_config, tmp_path
):
    config = digits_config({"method": method})
    summary = simulate(prepare(config, tmp_path / "run"), tmp_path / "run")
    width = describe_backbone(config.model).width
    assert summary["upload_bytes"] == bytes_each * CLIENTS * sum(numbers(width, c) for c in CLASSES)
    assert summary["download_bytes"] == 0


LIGHT = {"data": {"train_limit": 60, "test_limit": 30}, "train": {"rounds": 1}}


@pytest.mark.parametrize("concat", [False, True])
def test_transport_adds_two_sums_and_sends_each_backbone_once(concat, digits_config, tmp_path):
    method = {"name": "lorm+ranpac", "rank": 2, "size": 30, "penalty": 1.0, "adapt": "every_task", "concat": concat}
    runs = [
        simulate(
            prepare(digits_config(LIGHT, {"method": {**method, "transport": on}}), tmp_path / str(on)),
            tmp_path / str(on),
        )
        for on in (False, True)
    ]
    assert runs[1]["upload_bytes"] - runs[0]["upload_bytes"] == 8 * CLIENTS * (30 * 30 + half(30))  # in the second task
    assert runs[1]["download_bytes"] == runs[0]["download_bytes"]


LARGE = """
import resource, sys, time
import numpy as np
from fcil.arrays import nbytes, ungrouped
from fcil.statistics.features import GRAM, class_sums, counts
from fcil.method import Backbone, ClientUpdate, Phase
from fcil.seeding import generator
from fcil.method import Task
from strategies.ranpac import RanPAC

M, C = 10_000, 10
method, phase = RanPAC(random=M, penalty=1e3), Phase(0, "report", Task(0, 0, C), 1, 0)
state = method.begin(method.init(Backbone(384, {}), C, 0), phase, Backbone(384, {}))
rng = generator(0, "test")
x = np.maximum(rng.standard_normal((200, M), np.float32), 0)
gram = np.concatenate([x[:, i] @ x[:, i:] for i in range(M)]).astype(np.float64)
hot = np.eye(C)[rng.integers(0, C, 200)]
update = ClientUpdate(0, 0, 200, {}, {GRAM: gram, class_sums(0): hot.T @ x.astype(np.float64), counts(0): hot.sum(0)})
state = method.merge(state, phase, [update])
del gram, update
began = time.perf_counter()
deployed = method.deploy(state, phase)
seconds = time.perf_counter() - began
rows = deployed["head.0.weight"].astype(np.float64)
residual = x.astype(np.float64).T @ (x @ rows.T - hot) + 1e3 * rows.T  # the normal equations, without G
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(peak, seconds, np.abs(residual).max() / np.abs(hot.T @ x).max())
"""


@pytest.mark.slow
def test_ten_thousand_random_features_are_solved_within_four_gigabytes():
    ran = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    peak, seconds, residual = map(float, ran.stdout.split())
    print(f"peak {peak / 1e9:.2f} GB, one solve of 10,000 features {seconds:.1f} s")
    assert peak < 4e9
    assert residual < 1e-4  # rows are float32
