"""CIFAR-100 (Krizhevsky, 2009) from its original python archive; images stay at 32x32.

Its batches are pickles, which can run any code. Only plain values and NumPy arrays, which they are known to hold, are
admitted; everything else is refused before it is built.
"""

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fcil.data.family import PROTOCOL_TEST, PROTOCOL_TRAIN, Family, File, Listing, Part
from fcil.data.settings import Data
from fcil.data.splits import check_no_split_file
from fcil.errors import ConfigError

__all__ = ["CIFAR100"]

FOLDER = "cifar-100-python"


class _Arrays(pickle.Unpickler):
    """A pickle reader that builds nothing but NumPy arrays, under the names that old and new NumPy pickle them by."""

    _admitted: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),  # bytes, as Python 3 writes protocol 2
    }

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of that name, if a CIFAR batch may use it; anything else is an UnpicklingError."""
        if (module, name) not in self._admitted:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR batch holds")
        return self._admitted[module, name]


def _batch(path: Path) -> dict[bytes, Any]:
    try:
        with open(path, "rb") as file:
            batch = _Arrays(file, encoding="bytes").load()
        return {key if isinstance(key, bytes) else str(key).encode(): value for key, value in batch.items()}
    except Exception as error:  # a damaged pickle can raise anything
        raise ConfigError(f"{path}: cannot be read as a CIFAR batch ({error}); unpack the archive again") from None


def _part(path: Path) -> Part:
    batch = _batch(path)
    pixels, labels = batch.get(b"data"), batch.get(b"fine_labels")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or not isinstance(labels, list):
        raise ConfigError(f"{path}: holds no `data` and `fine_labels` of CIFAR-100; unpack the archive again")
    if pixels.shape != (len(labels), 3072):
        raise ConfigError(f"{path}: {pixels.shape} bytes for {len(labels)} labels; there must be 3,072 each")
    return Part(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.int64))


def _listing(root: Path, settings: Data) -> Listing:
    check_no_split_file(settings)
    names = _batch(root / FOLDER / "meta").get(b"fine_label_names")
    if not isinstance(names, list):
        raise ConfigError(f"{root / FOLDER / 'meta'}: holds no `fine_label_names`; unpack the archive again")
    classes = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
    return Listing(classes, _part(root / FOLDER / "train"), _part(root / FOLDER / "test"))


CIFAR100 = Family(
    name="cifar100",
    source="Krizhevsky, 2009: https://www.cs.toronto.edu/~kriz/cifar.html",
    listing=_listing,
    classes=100,
    counts=(50_000, 10_000),
    tasks=10,
    files=(
        File(
            f"{FOLDER}.tar.gz",
            f"https://www.cs.toronto.edu/~kriz/{FOLDER}.tar.gz",
            "eb9058c3a382ffc7106e4002c42a8d85",
            FOLDER,
            {
                "train": "16019d7e3df5f24257cddd939b257f8d",
                "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
                "meta": "7973b15100ade9c7d40fb424638fde48",
            },
        ),
    ),
    train_view=PROTOCOL_TRAIN,
    test_view=PROTOCOL_TEST,
)
