"""What `fcil bench` says while it measures; speeds themselves are measured by hand."""

from fcil.bench import training
from fcil.bench.training import MERGES, Workload, run_bench


def test_each_measurement_is_told_before_it_begins(monkeypatch):
    told, measured = [], []

    class Rig:
        def __init__(self, *_):
            pass

        def local_training(self):
            return self.bare_loop()

        def bare_loop(self, number=1):
            return 1.0

        forward = local_training

        def merge(self):
            measured.append(told[-1])
            return 1.0

    def share(*_):
        measured.append(told[-1])
        return 0.5

    monkeypatch.setattr(training, "_Rig", Rig)
    monkeypatch.setattr(training, "_share_of_run", share)
    run_bench(Workload("fcil_vit_tiny", "", 32, 16, 4, 1, "fp32"), 2, "lorm", told.append)
    assert told[:3] == ["warming up", "measuring 1 of 2", "measuring 2 of 2"]
    assert measured == [*(f"measuring merge {n + 1} of {MERGES}" for n in range(MERGES)), "measuring a small whole run"]
