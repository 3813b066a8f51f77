"""Scores images that the server holds by the model: `Method.server_images` says which, and when."""

import numpy as np
import torch

from fcil.arrays import Arrays
from fcil.method import Method
from fcil.model.adapted import AdaptedModel

__all__ = ["server_scores"]


def server_scores(
    method: Method, model: AdaptedModel, arrays: Arrays, images: np.ndarray, side: int, batch: int
) -> np.ndarray:
    """Class scores of normalised images, (n, 3, h, w) -> (n, classes seen) float32, with these arrays in the model.

    Args:
        side: of the model's inputs, in pixels; images of another are resized.
        batch: number of images that pass at a time.
    """
    scores: list[np.ndarray] = []
    with torch.no_grad():
        model.load(arrays)
        for begin in range(0, len(images), batch):
            part = torch.tensor(images[begin : begin + batch], device=model.device)
            if part.shape[-2:] != (side, side):
                part = torch.nn.functional.interpolate(part, (side, side), mode="bicubic", antialias=True)
            scores.append(method.scores(model, part).float().cpu().numpy())
    return np.concatenate(scores)
