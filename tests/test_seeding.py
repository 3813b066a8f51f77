"""Draws that are named, and nothing else."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import phase

from fcil.seeding import generator, torch_generator

paths = st.lists(st.one_of(st.integers(-10, 10**6), st.text("abc/ 01", max_size=6)), max_size=4).map(tuple)


@given(st.integers(0, 2**63), paths, paths)
def test_a_path_names_one_stream(seed, one, two):
    first = generator(seed, *one).integers(2**63, size=4)
    np.testing.assert_array_equal(first, generator(seed, *one).integers(2**63, size=4))
    assert np.array_equal(first, generator(seed, *two).integers(2**63, size=4)) == (one == two)
    assert not np.array_equal(first, generator(seed + 1, *one).integers(2**63, size=4))


def test_parts_of_a_path_do_not_run_together_and_types_count():
    draws = [generator(0, *path).random() for path in ((1, 2), (12,), ("1", 2), (2, 1), ("1 2",), (), (0,), ("",))]
    assert len(set(draws)) == len(draws)


def test_numpys_integers_are_integers():
    assert generator(0, np.int64(3)).random() == generator(0, 3).random()
    assert generator(np.int64(7)).random() == generator(7).random()


def test_global_state_is_neither_read_nor_changed():
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    first = generator(0, "x").random(), torch.rand(1, generator=torch_generator(0, "x")).item()
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), before[1])
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert first == (generator(0, "x").random(), torch.rand(1, generator=torch_generator(0, "x")).item())


@pytest.mark.slow
def test_another_process_draws_the_same_whatever_its_hash_seed():
    code = "from fcil.seeding import generator; print(generator(3, 'batches', 1, 'a').integers(2**62))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "5"},
    )
    assert int(done.stdout) == generator(3, "batches", 1, "a").integers(2**62)


def test_a_stream_is_pcg64_seeded_by_the_sha256_of_its_name():
    """Written out, so that no change of the scheme, and with it of every published number, goes unseen."""
    sha = hashlib.sha256(b"seed:3\x1fstr:batches\x1fint:1").digest()
    words = np.frombuffer(sha, "<u4", 4).tolist()
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
    assert generator(3, "batches", 1).integers(2**62) == expected.integers(2**62)
    assert torch_generator(3, "batches", 1).initial_seed() == (words[1] << 31) ^ words[0]


def test_streams_are_as_random_as_one():
    means = np.array([generator(0, "x", i).random() for i in range(2000)])
    assert abs(means.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 2000)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.1


def test_a_phases_generator_depends_on_seed_task_round_and_purpose_only():
    same = phase(3, index=2).generator("batches", 1).random()
    assert phase(3, kind="report", index=9).generator("batches", 1).random() == same
    others = [phase(2), phase(3, seed=1)]
    assert all(other.generator("batches", 1).random() != same for other in others)
    assert phase(3).generator("batches", 2).random() != same
