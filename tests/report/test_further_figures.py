"""Tables of figures by class and client: what is there is shown, what is not is said."""

import csv
import io

import numpy as np
import pytest

from fcil.engine.figures import EARLIER
from fcil.report.figures_table import figures_csv, figures_markdown
from fcil.report.further_figures import further_figures
from fcil.report.references import with_references

WHOLE = {
    "old_accuracy": 0.5, "new_accuracy": 0.9, "base_accuracy": 0.4, "later_accuracy": 0.6, "harmonic_accuracy": 0.48,
    "macro_accuracy": 0.55, "worst_class_accuracy": 0.125, "worst_class": "cat", "client_accuracy_mean": 0.6,
    "client_accuracy_worst": 0.3, "client_accuracy_std": 0.05, "state_bytes": [1_000_000, 2_500_000],
    "client_bytes": [0, 40_000], "client_bytes_max": [0, 30_000], "absent": {},
}  # fmt: skip


def run_of(label, seed, final, **changes):
    return {"label": label, "seed": seed, "final_accuracy": final, **WHOLE, **changes}


def test_all_figures_are_shown_with_their_units():
    lines = dict(further_figures(WHOLE))
    assert lines["old classes / those of the last task"] == "50.0 / 90.0 %"
    assert lines["base classes / later ones / harmonic mean"] == "40.0 / 60.0 / 48.0 %"
    assert lines["worst class (cat)"] == "12.5 %"
    assert lines["  spread over clients"] == "5.0 points"
    assert lines["stored by the server, first / last task"] == "1.00 / 2.50 MB"
    assert lines["stored by all clients, first / last task"] == "0.00 / 0.04 MB"
    assert not any("not known" in name for name in lines)


def test_what_is_absent_is_one_line_with_its_reason():
    lines = dict(further_figures({**WHOLE, "macro_accuracy": None, "absent": {"macro_accuracy": EARLIER}}))
    assert "mean over classes" not in lines
    assert lines["not known: macro_accuracy"] == EARLIER
    assert dict(further_figures({})) == {}


def test_figures_have_mean_and_sample_deviation_over_seeds():
    runs = [run_of("a", 0, 0.5), run_of("a", 1, 0.5, macro_accuracy=0.75, state_bytes=[0, 1_500_000])]
    (row,) = csv.DictReader(io.StringIO(figures_csv(runs)))
    assert float(row["macro_accuracy_mean"]) == pytest.approx(0.65)
    assert float(row["macro_accuracy_std"]) == pytest.approx(np.std([0.55, 0.75], ddof=1))
    assert float(row["state_bytes_mean"]) == 2_000_000
    (row,) = csv.DictReader(io.StringIO(figures_csv(runs[:1])))
    assert (float(row["macro_accuracy_mean"]), row["macro_accuracy_std"]) == (0.55, "")


def test_a_figure_that_one_run_lacks_is_a_dash_and_a_column_that_all_lack_is_left_out():
    runs = [run_of("a", 0, 0.5, macro_accuracy=None), run_of("a", 1, 0.5), run_of("b", 0, 0.5)]
    head, _, first, second = figures_markdown(runs).splitlines()
    columns = [text.strip() for text in head.split("|")]
    at = columns.index("mean over classes [%]")
    assert first.split("|")[at].strip() == "-"
    assert second.split("|")[at].strip() == "55.0"
    assert first.split("|")[columns.index("server stores [MB]")].strip() == "2.50 ± 0.00"
    head = figures_markdown([run_of("a", 0, 0.5, macro_accuracy=None)]).splitlines()[0]
    assert "mean over classes" not in head


# ---- reference runs --------------------------------------------------------------------------------------------------


def tasks_of(label, seed, correct, stream="federated", **settings):
    final = sum(correct[-1]) / 30
    return run_of(label, seed, final, correct=correct, total=[10, 10, 10], stream=stream, settings=settings)


TABLE = [
    tasks_of("a", 0, [[9], [5, 8], [1, 2, 6]]), tasks_of("a", 1, [[8], [4, 6], [0, 0, 9]]),
    tasks_of("top", 0, [[0], [0, 0], [9, 9, 9]], "at_once"), tasks_of("top", 1, [[0], [0, 0], [6, 9, 9]], "at_once"),
    tasks_of("single", 0, [[9], [0, 10], [0, 0, 7]], "each_alone"),
]  # fmt: skip


def test_gap_and_forward_transfer_are_those_to_the_reference_of_the_same_seed():
    a, b, *references = with_references(TABLE)
    assert a["gap_to_joint"] == pytest.approx(9 / 30 - 27 / 30)
    assert b["gap_to_joint"] == pytest.approx(9 / 30 - 24 / 30)
    assert a["forward_transfer"] == pytest.approx(((8 - 10) / 10 + (6 - 7) / 10) / 2)
    assert b["forward_transfer"] is None, "its seed has no run alone"
    assert all(run["gap_to_joint"] is None and run["forward_transfer"] is None for run in references)
    (row, *_) = csv.DictReader(io.StringIO(figures_csv(TABLE)))
    assert float(row["gap_to_joint_mean"]) == pytest.approx(-0.55)
    assert float(row["gap_to_joint_std"]) == pytest.approx(np.std([-0.6, -0.5], ddof=1))
    assert row["forward_transfer_mean"] == ""


def test_runs_with_other_images_and_tables_with_two_references_are_not_paired():
    other = [*TABLE[:1], *(dict(run, settings={"data.train_limit": 5}) for run in TABLE[2:])]
    assert with_references(other)[0]["gap_to_joint"] is None
    larger = [dict(TABLE[0], settings={"model.backbone": "large"}), *TABLE[2:]]
    assert with_references(larger)[0]["gap_to_joint"] is None
    longer = [dict(TABLE[0], settings={"train.rounds": 9}), *TABLE[2:]]
    assert with_references(longer)[0]["forward_transfer"] is None
    twice = [*TABLE, dict(TABLE[2], label="top(rank = 8)")]
    assert with_references(twice)[0]["gap_to_joint"] is None
    assert with_references(twice)[0]["forward_transfer"] is not None
    assert "minus joint training" not in figures_markdown(other)
