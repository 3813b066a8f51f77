"""Decode image files in parallel. Pillow decodes and resizes outside the interpreter's lock, so threads suffice."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from fcil.data.transforms import To, resized, squashed
from fcil.errors import ConfigError
from fcil.threads import cores

__all__ = ["decode", "decoded"]

AHEAD = 8
"""Decoded images per thread that may wait to be used: bounds memory."""


def decode(item: Path | np.ndarray, to: To) -> np.ndarray:
    """Decode an image, (h, w, c) uint8, and resize it, bicubic as torchvision's Resize of a Pillow image.

    Args:
        item: a file, or pixels, which are only resized to a square, never to a shorter side.

    Raises:
        ConfigError: the file is not an image, or a damaged one; names the file.
    """
    if isinstance(item, np.ndarray):
        return squashed(item, to[0]) if isinstance(to, tuple) else item
    try:
        with Image.open(item) as opened:
            image = opened.convert("RGB")
    except (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{item}: cannot be read as an image ({error}); fetch it again") from None
    height, width = map(int, resized(np.array([[image.height, image.width]]), to)[0])
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def decoded(items: Sequence[Path] | np.ndarray, to: To, threads: int = 0) -> Iterator[np.ndarray]:
    """Decode images in order on `threads` threads (0: one per core), with few of them in memory at once."""
    count = threads or cores()
    rest = iter(items)
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[np.ndarray]] = deque()
        try:
            for item in islice(rest, AHEAD * count):
                waiting.append(pool.submit(decode, item, to))
            while waiting:
                image = waiting.popleft().result()
                waiting.extend(pool.submit(decode, item, to) for item in islice(rest, 1))
                yield image
        finally:
            pool.shutdown(cancel_futures=True)
