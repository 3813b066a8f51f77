"""Sites with images of their own: the same as one folder of all images, cut by site."""

import json
from functools import cached_property

import numpy as np
import pytest
from site_folders import COUNTS, HELD, NAMES, own_name, site_settings, write_sites

from fcil.config import from_table
from fcil.engine.metrics import at_sites
from fcil.engine.reading import read_events
from fcil.engine.simulation import prepare, simulate
from fcil.errors import ConfigError, RunError
from fcil.exchange.inline import Inline
from fcil.exchange.worker import Worker
from fcil.scenario.scenario import Scenario, make_scenario
from fcil.server.evaluation import read_answers
from fcil.server.loop import run
from fcil.server.plan import initial_progress, make_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sites(tmp_path_factory.mktemp("sites"))


def config(folder, **sections):
    return from_table([("sites", site_settings(folder, **sections))])


def finished(plan, worker):
    return run(plan, initial_progress(plan), Inline(worker), lambda event: None, lambda progress: None)


class CutBySite(Worker):
    """All images in one folder; client k has those whose file names begin with the k-th letter."""

    @cached_property
    def scenario(self) -> Scenario:
        data = self.dataset
        letters = {
            part: np.array([
                path.name[0] for name in data.classes
                for path in sorted((self.root / part / name).iterdir())
            ])
            for part in ("train", "test")
        }  # fmt: skip
        common = make_scenario(data, self.config.tasks, self.config.partition, self.config.run.seed)
        parts = tuple(
            tuple(np.sort(np.concatenate(parts))[letters["train"][np.sort(np.concatenate(parts))] == s] for s in "abc")
            for parts in common.parts
        )
        self.letters.append(letters["test"])
        return Scenario(common.tasks, common.order, common.positions, parts, common.tests)


@pytest.mark.parametrize("method", ["lorm", "fedavg", "ncm"])
@pytest.mark.parametrize("order", ["natural", "shuffled"])
def test_sites_end_in_the_bits_of_one_folder_cut_by_site(folder, method, order):
    settings = {"method": {"name": method}, "tasks": {"count": 3, "order": order}}
    session = prepare(config(folder, **settings))
    progress = finished(session.plan, session.worker)

    pooled = config(folder, **settings, partition={"kind": "iid", "clients": 3, "min_samples": 0},
                    data={"root": str(folder / "pooled"), "sites": [], "class_maps": []})  # fmt: skip
    worker = CutBySite(pooled, session.worker.method)
    object.__setattr__(worker, "root", folder / "pooled")
    object.__setattr__(worker, "letters", [])
    plan = make_plan(pooled, worker.method, worker.census, session.plan.backbone)
    by_hand = finished(plan, worker)
    assert progress.sha256() == by_hand.sha256()
    assert progress.correct == by_hand.correct
    np.testing.assert_array_equal(session.plan.census.by_class, plan.census.by_class)
    # and each site's correct answers are those on its own images
    deployed = plan.method.deploy(by_hand.state, plan.phases[-1])
    for site in range(3):
        owned = Worker(pooled, worker.method)
        tests = tuple(t[worker.letters[0][t] == "abc"[site]] for t in worker.scenario.tests)
        scenario = worker.scenario
        object.__setattr__(owned, "scenario", Scenario(scenario.tasks, scenario.order, scenario.positions,
                                                       scenario.parts, tests))  # fmt: skip
        answers = read_answers(plan, plan.phases[-1].task, owned.evaluate(deployed, plan.phases[-1].task))
        assert answers.at_places.tolist() == [list(progress.at_places[site])]


def test_the_census_counts_every_site(folder):
    census = prepare(config(folder)).plan.census
    assert census.classes == tuple(sorted(NAMES))
    assert census.clients == 3
    for site, (held, (train, test)) in enumerate(zip(HELD, COUNTS, strict=True)):
        wanted = [train * (NAMES.index(name) in held) for name in census.classes]
        assert census.by_class[site].tolist() == wanted
        assert census.test[site].tolist() == [
            sum(test * (NAMES.index(name) in held) for name in census.classes[t.first : t.seen]) for t in census.tasks
        ]


def test_declared_classes_set_the_order(folder):
    census = prepare(config(folder, tasks={"classes": list(NAMES)})).plan.census
    assert census.classes == NAMES


def test_accuracy_at_the_sites_is_recorded(folder, tmp_path):
    settings = config(folder, method={"name": "ncm"})
    summary = simulate(prepare(settings, tmp_path / "run"), tmp_path / "run")
    census = prepare(settings).plan.census
    total = census.test.sum(1)
    correct = [round(a * n) for a, n in zip(summary["site_accuracy"], total, strict=True)]
    assert sum(correct) == sum(summary["correct"][-1])
    assert summary["site_accuracy_worst"] == min(summary["site_accuracy"])
    *_, last = (event for event in read_events(tmp_path / "run") if event["event"] == "task")
    told = np.array(last["sites"]["class_correct"])
    assert told.sum(0).tolist() == list(summary["class_correct"][-1])
    assert told.sum(1).tolist() == [sum(row) for row in last["sites"]["correct"]]
    np.testing.assert_array_equal(np.array(last["sites"]["class_total"]) > 0, census.by_class > 0)
    assert (told <= last["sites"]["class_total"]).all()
    assert summary["client_accuracy_worst"] == min(summary["client_accuracy"])
    assert summary["site_accuracy_mean"] == pytest.approx(np.mean(summary["site_accuracy"]))
    again = simulate(prepare(settings, tmp_path / "run"), tmp_path / "run")
    assert json.loads(json.dumps(summary)) == again


def test_a_run_that_was_stopped_keeps_what_sites_told(folder, tmp_path):
    """The last evaluation may lie before the stop."""
    settings = config(folder, method={"name": "ncm"})
    whole = simulate(prepare(settings, tmp_path / "whole"), tmp_path / "whole")
    session = prepare(settings, tmp_path / "run")

    class Ends(Exception):
        pass

    class Stops(Inline):
        def close(self):
            raise Ends

    with pytest.raises(Ends):
        simulate(session, tmp_path / "run", exchange=Stops(session.worker))
    (tmp_path / "run" / "summary.json").unlink()  # as if killed after the last checkpoint
    again = simulate(prepare(settings, tmp_path / "run"), tmp_path / "run")
    assert again.pop("resumed") == 1
    measured = {"seconds", "peak_memory_bytes"}
    assert {k: v for k, v in again.items() if k not in measured} == {
        k: v for k, v in whole.items() if k not in measured
    }


def test_figures_at_the_sites_by_hand():
    assert at_sites([[1, 2], [0, 0], [3, 0]], [[2, 2, 9], [0, 0, 1], [4, 0, 0]]) == {
        "site_accuracy": [0.75, None, 0.75], "site_accuracy_mean": 0.75, "site_accuracy_worst": 0.75,
    }  # fmt: skip


def test_images_of_a_server_take_the_place_of_the_sites_own(folder, tmp_path):
    server = tmp_path / "server"
    server.mkdir()
    (server / "test").symlink_to(folder / "pooled" / "test")
    data = {"test_at": "server", "root": str(server)}
    at_server = prepare(config(folder, data=data, method={"name": "ncm"}))
    assert at_server.plan.census.test.shape == (1, 3)
    assert not at_server.plan.sites_evaluate
    at_site = prepare(config(folder, method={"name": "ncm"}))
    one, other = (finished(s.plan, s.worker) for s in (at_server, at_site))
    assert one.sha256() == other.sha256()
    assert one.correct == other.correct


def test_an_answer_that_cannot_be_true_stops_the_run(folder):
    session = prepare(config(folder, method={"name": "ncm"}))

    class Boasts(Inline):
        def evaluate(self, arrays, task):
            correct = super().evaluate(arrays, task)
            correct[1] += 100
            return correct

    with pytest.raises(RunError, match=r"site 1: reports 1\d\d correct answers on the"):
        run(session.plan, initial_progress(session.plan), Boasts(session.worker), lambda e: None, lambda p: None)


@pytest.mark.parametrize(("sections", "message"), [
    ({"partition": {"kind": "iid"}}, 'set partition.kind = "sites"'),
    ({"partition": {"clients": 4}}, "leave partition.clients out"),
    ({"data": {"class_maps": [""]}}, "1 for 3 sites"),
    ({"data": {"sites": [], "class_maps": []}}, "data.sites names no folder"),
    ({"data": {"root": "x"}}, "nothing would read it"),
    ({"data": {"test_at": "server"}}, "data.root must name"),
    ({"data": {"class_counts": False}}, "tasks.classes must name all"),
    ({"data": {"class_maps": ["", "", ""]}, "tasks": {"classes": list(NAMES)}}, "site 1 .*has images of 'ziffer-4'"),
    ({"data": {"class_maps": ["", "none.toml", ""]}}, r"site 1 .*none.toml: No such file"),
    ({"tasks": {"classes": ["zero", "zero"]}}, "has images of"),
    ({"tasks": {"classes": [*NAMES, "six"], "sizes": [3, 3, 1]}}, r"task 3 \(six\) has 0 training and 0 test"),
    ({"tasks": {"long_tail": 10}}, "sites have the images that they have"),
    ({"tasks": {"shots": 5}}, "tasks.shots: sites have the images that they have"),
    ({"tasks": {"count": 7}}, "do not fill that many tasks"),
    ({"data": {"name": "digits"}}, 'data.name = "digits": is one data set for all'),
    ({"data": {"class_counts": False}, "tasks": {"count": 6, "classes": list(NAMES)}}, "task 1 has one class"),
])  # fmt: skip
def test_what_contradicts_itself_is_refused(folder, sections, message):
    with pytest.raises(ConfigError, match=message):
        prepare(config(folder, **sections))


def test_a_class_map_that_names_no_class_of_the_site_is_refused(folder, tmp_path):
    (tmp_path / "map.toml").write_text('"zerro" = "zero"\n')
    with pytest.raises(ConfigError, match=r"site 0 .*class map .*map.toml names 'zerro', a class .*'zero'\? Known: "):
        prepare(config(folder, data={"class_maps": [str(tmp_path / "map.toml"), f"{folder}/b.toml", ""]}))


def test_a_folder_named_twice_and_a_site_elsewhere_are_refused(folder):
    sites = [str(folder / name) for name in ("a", "c", "a")]
    with pytest.raises(ConfigError, match="site 0 and site 2 have the same images"):
        prepare(config(folder, data={"sites": sites, "class_maps": []}))
    with pytest.raises(ConfigError, match="names no folder for site 1"):
        prepare(config(folder, data={"sites": [sites[0], "", sites[1]], "class_maps": []}))


def test_own_names_do_not_decide_which_images_a_limit_keeps(folder, tmp_path):
    """The same images of site b under other names, whose order is another one."""
    for part in ("train", "test"):
        for digit in HELD[1]:
            (tmp_path / "other" / part).mkdir(parents=True, exist_ok=True)
            (tmp_path / "other" / part / f"x{digit}").symlink_to(folder / "b" / part / own_name(1, digit))
    (tmp_path / "map.toml").write_text("".join(f'x{digit} = "{NAMES[digit]}"\n' for digit in HELD[1]))
    limits = {"train_limit": 20, "test_limit": 9}
    alone = prepare(
        config(
            folder, data={**limits, "sites": [f"{folder}/b"], "class_maps": [f"{folder}/b.toml"]}, tasks={"count": 1}
        )
    )
    elsewhere = {"sites": [f"{tmp_path}/other"], "class_maps": [f"{tmp_path}/map.toml"]}
    other = prepare(config(folder, data={**limits, **elsewhere}, tasks={"count": 1}))
    np.testing.assert_array_equal(alone.plan.census.by_class, other.plan.census.by_class)
    assert alone.plan.census.by_class.tolist() == [[16, 4, 0, 0]]  # five, four, three, two
    one, two = (finished(s.plan, s.worker) for s in (alone, other))
    assert one.sha256() == two.sha256()


def test_accents_written_in_two_ways_are_one_name(folder, tmp_path):
    composed, apart = "Gr\u00f6\u00dfe", "Gro\u0308\u00dfe"
    for site, name in (("a", composed), ("c", apart)):
        for part in ("train", "test"):
            (tmp_path / site / part).mkdir(parents=True)
            for own, source in ((name, "zero"), ("other", "one" if site == "a" else "four")):
                (tmp_path / site / part / own).symlink_to(folder / site / part / source)
    census = prepare(config(tmp_path, data={"sites": [f"{tmp_path}/a", f"{tmp_path}/c"], "class_maps": []},
                            tasks={"count": 1})).plan.census  # fmt: skip
    assert census.classes == (composed, "other")


@pytest.mark.parametrize("method", ["joint", "sequential"])
def test_pooled_sites_end_in_the_bits_of_one_folder(folder, method):
    session = prepare(config(folder, method={"name": method, "rank": 2}))
    pooled = prepare(config(folder, method={"name": method, "rank": 2}, partition={"kind": "iid"},
                            data={"root": str(folder / "pooled"), "sites": [], "class_maps": []}))  # fmt: skip
    one, two = (finished(s.plan, s.worker) for s in (session, pooled))
    assert one.sha256() == two.sha256()
    assert one.correct == two.correct


def test_joint_training_pools_the_sites(folder):
    session = prepare(config(folder, method={"name": "joint", "rank": 2}))
    progress = finished(session.plan, session.worker)
    assert len(progress.at_places) == 3
    assert session.plan.census.clients == 1
