"""Decode image files in parallel. Pillow decodes and resizes outside the interpreter's lock, so threads suffice."""

import io
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fcil.data.transforms import To, resized, squashed
from fcil.errors import ConfigError
from fcil.threads import cores

__all__ = ["DAMAGED", "RULES", "decode", "decoded"]

AHEAD = 8
"""Decoded images per thread that may wait to be used: bounds memory."""
RULES = 4
"""Number of the rules by which a user's own images are decoded and classes sorted: caches by others are made again."""
DAMAGED = OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError
"""What Pillow raises where a file is not an image, or not all of one."""

LARGEST = 2**26
"""Most pixels to which an image of a user's own is enlarged: 0.2 GB, and many are in memory at once."""
warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata; sizes of half of those that Pillow refuses

Source = Path | bytes | np.ndarray | Callable[[], Image.Image]


def _opened(item: Path | bytes | Callable[[], Image.Image]) -> Image.Image:
    if isinstance(item, Path | bytes):
        return Image.open(io.BytesIO(item) if isinstance(item, bytes) else item)
    return item()


def _plain(image: Image.Image) -> Image.Image:
    """Turn an image as its camera says, put what is transparent on white, and bring 16 bits to 8: RGB of 8 bits.

    Raises:
        ValueError: its values are neither of 8 nor of 16 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits, as "I" too; Pillow itself would clip them to white
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its values are neither of 8 nor of 16 bits; save it with one of them")
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def decode(item: Source, to: To, own: bool = False) -> np.ndarray:
    """Decode an image, (h, w, c) uint8, and resize it, bicubic as torchvision's Resize of a Pillow image.

    Args:
        item: a file, its content, what opens it, or pixels, which are resized to a square only, not to a shorter side.
        own: rotation in EXIF, transparency (on white) and 16 bits are taken into account; otherwise Pillow's conversion
            to RGB is taken as it is, which is what public code does with published sets.

    Raises:
        ConfigError: the file is not an image, or a damaged one; names the file.
    """
    if isinstance(item, np.ndarray):
        return squashed(item, to[0]) if isinstance(to, tuple) else item
    name = item if isinstance(item, Path) else "an image of the set"
    try:
        with _opened(item) as opened:
            image = _plain(opened) if own else opened.convert("RGB")
    except DAMAGED as error:
        remedy = "replace or remove it" if own else "fetch it again"
        raise ConfigError(f"{name}: cannot be read as an image ({error}); {remedy}") from None
    height, width = map(int, resized(np.array([[image.height, image.width]]), to)[0])
    if own and height * width > max(LARGEST, image.height * image.width):
        raise ConfigError(
            f"{name}: {image.width} x {image.height} pixels are too long and narrow: at a shorter side of {to} they "
            f'would be {width:,} x {height:,}; cut or remove it, or show images whole, data.view = "whole"'
        )
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def decoded(items: Iterable[Source], to: To, threads: int = 0, own: bool = False) -> Iterator[np.ndarray]:
    """Decode images in order on `threads` threads (0: one per core), with few of them in memory at once."""
    count = threads or cores()
    rest = iter(items)
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[np.ndarray]] = deque()
        try:
            for item in islice(rest, AHEAD * count):
                waiting.append(pool.submit(decode, item, to, own))
            while waiting:
                image = waiting.popleft().result()
                waiting.extend(pool.submit(decode, item, to, own) for item in islice(rest, 1))
                yield image
        finally:
            pool.shutdown(cancel_futures=True)
