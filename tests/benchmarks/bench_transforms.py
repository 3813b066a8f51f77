"""Batches of the model's input: fcil beside torchvision's per-image pipeline on Pillow images, in turn, one thread.

    python tests/benchmarks/bench_transforms.py

Both start from the same pixels in memory (decoded, for torchvision as Pillow images), and end in a normalised float32
batch of 16 at 224 pixels. The last case starts from JPEG files, as a plain ImageFolder does; fcil has its cache.
"""

import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision import transforms as T

from fcil.data.dataset import Dataset, Split, model_inputs
from fcil.data.family import HALF, PROTOCOL_TEST, PROTOCOL_TRAIN
from fcil.data.transforms import resized

BATCH, SIZE, REPEATS = 16, 224, 15
BICUBIC = T.InterpolationMode.BICUBIC
TRAIN = [T.Resize(224, BICUBIC), T.RandomResizedCrop(224, interpolation=BICUBIC), T.RandomHorizontalFlip()]
TEST = [T.Resize(256, BICUBIC), T.CenterCrop(224)]


def seconds(once: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    once()
    return time.perf_counter() - start


def smooth(rng: np.random.Generator, shape: tuple[int, int]) -> Image.Image:
    """Something a JPEG encoder treats like a photograph."""
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    return small.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    """At the quality of most photographs."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def case(name: str, shape: tuple[int, int], train: bool, from_files: bool = False) -> tuple[str, float, float, float]:
    """(name, ms an image of torchvision, of fcil, median ratio of pairs)."""
    rng = np.random.default_rng(0)
    originals = [smooth(rng, shape) for _ in range(BATCH)]
    view = PROTOCOL_TRAIN if train else PROTOCOL_TEST
    high, wide = map(int, resized(np.array([shape]), 0 if max(shape) <= 64 else view.resize)[0])
    cached = [image.resize((wide, high), Image.Resampling.BICUBIC) for image in originals]
    stored = np.stack([np.asarray(image) for image in cached])
    files = [jpeg(image) for image in originals]
    part = Split(stored, np.zeros(BATCH, np.int64))
    data = Dataset("bench", ("a",), part, part, train_view=view, test_view=view)
    pipeline = T.Compose([*(TRAIN if train else TEST), T.ToTensor(), T.Normalize(HALF, HALF)])

    def theirs() -> None:
        images = [Image.open(io.BytesIO(f)).convert("RGB") for f in files] if from_files else cached
        torch.stack([pipeline(image) for image in images])

    def ours() -> None:
        model_inputs(stored, data, SIZE, rng if train else None)

    theirs(), ours()
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(REPEATS)]
    left, right = (1e3 * statistics.median(column) / BATCH for column in zip(*pairs, strict=True))
    return name, left, right, statistics.median(a / b for a, b in pairs)


def main() -> None:
    """Print one line per case."""
    torch.set_num_threads(1)
    print(f"{'':34}torchvision      fcil   ratio   (ms an image; median of {REPEATS} pairs)")
    for row in (
        case("32x32, training view (CIFAR)", (32, 32), True),
        case("32x32, test view (CIFAR)", (32, 32), False),
        case("224x299 in memory, training view", (375, 500), True),
        case("256x341 in memory, test view", (375, 500), False),
        case("375x500 JPEG, training view", (375, 500), True, from_files=True),
    ):
        print("{:34}{:11.2f}{:10.2f}{:7.1f}x".format(*row))


if __name__ == "__main__":
    main()
