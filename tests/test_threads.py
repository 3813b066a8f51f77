"""Threads of arithmetic: large pieces of work side by side."""

from threading import Barrier, get_ident

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from fcil.threads import map_in_threads, threads


def blas_threads():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


def test_results_come_in_the_order_of_the_items():
    with threads(3):
        assert map_in_threads(lambda n: n * n, range(50)) == [n * n for n in range(50)]
        assert map_in_threads(str, []) == []


def test_as_many_at_a_time_as_there_are_threads():
    meeting = Barrier(3)
    with threads(3):
        assert sorted(map_in_threads(lambda _: meeting.wait(timeout=20), range(3))) == [0, 1, 2]
    with threads(1):
        assert len(set(map_in_threads(lambda _: get_ident(), range(20)))) == 1


def test_a_piece_has_one_thread_of_linear_algebra_and_afterwards_all_is_as_before():
    torch_before, before = torch.get_num_threads(), blas_threads()
    with threads(2):
        assert blas_threads() == {2}
        assert map_in_threads(lambda _: blas_threads(), range(4)) == [{1}] * 4
        assert blas_threads() == {2}
    assert (torch.get_num_threads(), blas_threads()) == (torch_before, before)


def test_the_bits_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(0)
    pieces = [rng.standard_normal((n, n)) for n in (100, 257, 400)]

    def product_and_factor(a):
        gram = a @ a.T
        return gram, np.linalg.cholesky(gram + np.eye(len(a)))

    with threads(1):
        alone = [product_and_factor(a) for a in pieces]
    for count in (1, 2, 4):
        with threads(count):
            np.testing.assert_equal(map_in_threads(product_and_factor, pieces), alone)


def test_an_error_of_a_piece_is_raised_and_the_bounds_are_taken_back():
    def fail(n):
        if n == 3:
            raise ValueError("the third")
        return n

    with threads(2), pytest.raises(ValueError, match="the third"):
        map_in_threads(fail, range(6))
    with threads(2):
        assert map_in_threads(fail, range(3)) == [0, 1, 2]
        assert blas_threads() == {2}


def test_a_block_in_another_has_its_own_number_and_gives_the_outer_one_back():
    with threads(2):
        with threads(2):
            assert (torch.get_num_threads(), blas_threads()) == (2, {2})
        assert (torch.get_num_threads(), blas_threads()) == (2, {2})
        with threads(1):
            assert (torch.get_num_threads(), blas_threads()) == (1, {1})
            with threads(2):
                assert blas_threads() == {2}
            assert blas_threads() == {1}
        assert (torch.get_num_threads(), blas_threads()) == (2, {2})
