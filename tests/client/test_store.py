"""What a client keeps: keyed by client and phase, so that a phase can be run again."""

import resource

import numpy as np
import pytest

from fcil.arrays import digest
from fcil.client.store import ClientStore, MemoryStore, StoreError


@pytest.fixture
def store(tmp_path):
    return ClientStore(tmp_path / "clients")


def kept(value):
    return {"buffer": np.full((2, 2), value, np.float32), "count": np.array([value])}


def test_nothing_at_first_and_nothing_written_for_nothing(store):
    assert store.read(0, 5) == {}
    store.write(0, 5, {})
    assert not store.folder.exists()


def test_a_client_reads_what_it_wrote_before_this_phase(store):
    store.write(3, 0, kept(1))
    store.write(3, 4, kept(2))
    store.write(11, 1, kept(9))
    assert store.read(3, 0) == {}
    assert digest(store.read(3, 1)) == digest(store.read(3, 4)) == digest(kept(1))
    assert digest(store.read(3, 5)) == digest(kept(2))
    assert digest(store.read(11, 9)) == digest(kept(9))
    assert store.read(1, 9) == {}


def test_a_phase_run_again_starts_from_the_same_and_overwrites(store):
    store.write(0, 0, kept(1))
    store.write(0, 1, kept(2))
    assert digest(store.read(0, 1)) == digest(kept(1))
    store.write(0, 1, kept(3))
    assert digest(store.read(0, 2)) == digest(kept(3))


def test_types_shapes_and_layout_survive(store):
    arrays = {
        "u8": np.arange(12, dtype=np.uint8).reshape(3, 4).T, "i64": np.arange(3), "scalar": np.array(7.5),
        "empty": np.zeros((0, 3), np.float32), "flag": np.array([True, False]), "f16": np.ones(2, np.float16),
    }  # fmt: skip
    store.write(0, 0, arrays)
    back = store.read(0, 1)
    assert back.keys() == arrays.keys()
    for name, a in arrays.items():
        assert (back[name].shape, back[name].dtype) == (a.shape, a.dtype)
        np.testing.assert_array_equal(back[name], a)


def test_a_client_that_drops_what_it_kept_does_not_get_it_back(store):
    store.write(0, 0, kept(1))
    store.write(0, 1, {})
    assert store.read(0, 2) == {}
    assert digest(store.read(0, 1)) == digest(kept(1))


def test_four_newest_are_kept_and_order_is_of_numbers_not_of_text(store):
    for index in (0, 9, 10, 99, 100, 1_000_000):
        store.write(0, index, kept(index))
    assert store.read(0, 10) == {}
    assert store.read(0, 100)["count"] == [99]
    assert store.read(0, 1_000_001)["count"] == [1_000_000]
    assert len(list((store.folder / "0").iterdir())) == 4


def test_what_a_killed_process_left_half_written_is_not_read(store):
    store.write(0, 0, kept(1))
    (store.folder / "0" / ".3.123").write_bytes(b"half")
    assert digest(store.read(0, 9)) == digest(kept(1))


def test_a_store_in_memory_answers_like_the_one_on_disk(store):
    memory = MemoryStore()
    for client, index, value in [(0, 0, 1), (0, 1, 2), (0, 1, 3), (3, 2, 4), (0, 5, 0), (0, 7, 6), (0, 9, 8)]:
        for each in (store, memory):
            each.write(client, index, kept(value) if value else {})
        for of in (0, 1, 3):
            for before in range(11):
                assert digest(memory.read(of, before)) == digest(store.read(of, before))
    memory.write(4, 0, {})
    assert memory.read(4, 1) == {}


def test_what_is_read_from_memory_can_be_changed_in_place():
    memory = MemoryStore()
    memory.write(0, 0, kept(1))
    memory.read(0, 1)["count"] += 1
    assert memory.read(0, 1)["count"] == [1]


def test_a_file_that_may_not_grow_any_more_is_one_message_and_leaves_nothing_half_written(store):
    """The limit on the size of files fails as a full disk does, in the middle of a write."""
    store.write(2, 0, kept(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(StoreError, match=r"2: cannot be written \(.*too large.*its update is not sent"):
            store.write(2, 1, kept(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (store.folder / "2").iterdir()] == ["000000.safetensors"]
    assert digest(store.read(2, 2)) == digest(kept(1))
    store.write(2, 1, kept(2))
    assert digest(store.read(2, 2)) == digest(kept(2))


def test_a_folder_that_cannot_be_made_is_the_same_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written \((Not a directory|File exists)\)"):
        ClientStore(tmp_path / "file").write(0, 0, kept(1))
