"""Shared set-up: a modest Hypothesis profile, one thread, and small settings."""

import gc
import os

import pytest
import torch
from hypothesis import HealthCheck, settings
from optional import needed, needs_a_package
from threadpoolctl import threadpool_limits

settings.register_profile("fcil", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fcil")


def pytest_addoption(parser):
    parser.addoption(
        "--extras", action="store_true", help="run the tests that need an optional package; none is skipped"
    )


def pytest_configure(config):
    if config.getoption("--extras"):
        pytest.importorskip = needed


def pytest_collection_modifyitems(config, items):
    if config.getoption("--extras"):
        config.hook.pytest_deselected(items=[item for item in items if not needs_a_package(item)])
        items[:] = filter(needs_a_package, items)


gc.disable()  # while tests are collected: hardly anything of what is made then is ever let go


def pytest_collection_finish(session):
    """Keep the collector from looking, in every test, through the million objects of modules and tests."""
    gc.freeze()
    gc.enable()


def _check_that_it_is_open(file):
    os.fstat(file if isinstance(file, int) else file.fileno())


@pytest.fixture(autouse=True, scope="session")
def _no_wait_for_the_disk():
    """Leave out the wait until files are on the disk, which only a loss of power would tell from this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", _check_that_it_is_open)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Limit torch and BLAS to one thread: on a busy machine several wait for each other."""
    import scipy.linalg  # noqa: F401  brings a BLAS of its own, which has to be there to be limited

    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture(autouse=True)
def _pictures_without_rendering(request, monkeypatch):
    """Paint pictures without rendering them, which would take a third of a small run's time.

    tests/report and tests marked `rendered` render them; so does what draws in another process.
    """
    if "report" not in request.path.parts and not request.node.get_closest_marker("rendered"):
        from fcil.report import figure

        monkeypatch.setattr(figure, "_save", lambda painted, path: path.write_text("painted in a test"))


@pytest.fixture
def bench_file(tmp_path):
    """The file of a merging benchmark that takes seconds."""
    from small import BENCH

    path = tmp_path / "small.toml"
    path.write_text(BENCH)
    return path


@pytest.fixture
def digits_config():
    """Settings of a run of seconds: `digits_config({"train": {...}})` with sections on top of a small base."""
    from fcil.config import from_table

    base = {
        "data": {"name": "digits", "train_limit": 240, "test_limit": 100},
        "model": {"image_size": 16},
        "tasks": {"count": 2},
        "partition": {"clients": 3, "min_samples": 2},
        "train": {"rounds": 2, "epochs": 1},
        "run": {"device": "cpu"},
    }

    def make(*tables):
        return from_table([("base", base), *(("test", table) for table in tables)])

    return make
