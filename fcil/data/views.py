"""Shows a data set as the settings say: under a view by name, with what they set of it."""

from collections.abc import Sequence
from dataclasses import replace

from fcil.data.family import RGB, Family
from fcil.data.settings import Data
from fcil.data.transforms import View
from fcil.errors import ConfigError

__all__ = ["in_words", "shown"]


def shown(family: Family, settings: Data) -> Family:
    """Put the data set under the view that `data.view` names, with the settings of it that are given.

    Raises:
        ConfigError: a setting of a crop, where the view has no such crop.
    """
    views = family.seen(settings.view)
    train, test = views.train_view, views.test_view
    if settings.flip != "own":
        train = replace(train, flip=settings.flip)
    if settings.crop_scale:
        if train.crop != "area":
            raise _no_crop(family, settings, f"data.crop_scale = {list(settings.crop_scale)}", "no box of random area")
        train = replace(train, scale=(settings.crop_scale[0], settings.crop_scale[1]))
    if settings.resize != "own":
        if train.crop == test.crop == "whole":
            raise _no_crop(family, settings, f"data.resize = {settings.resize}", "nothing")
        train, test = (v if v.crop == "whole" else replace(v, resize=settings.resize) for v in (train, test))
    return replace(
        views, train_view=train, test_view=test, mean=_rgb(settings.mean, views.mean), std=_rgb(settings.std, views.std)
    )


def _no_crop(family: Family, settings: Data, where: str, instead: str) -> ConfigError:
    return ConfigError(
        f'{where}: the view "{settings.view}" of {family.name} crops {instead}; set data.view = "crop" with it, or '
        "leave it out"
    )


def _rgb(values: Sequence[float], default: RGB) -> RGB:
    return (values[0], values[1], values[2]) if values else default


def in_words(view: View, size: int) -> str:
    """Say for people what a view does to an image, for a model of `size` pixels."""
    first = f"squashed to {size} x {size}" if view.squash else ""
    shorter = view.shorter(size)
    resized = f"shorter side {shorter} px" if shorter and view.crop != "whole" else ""
    low, high = (f"{100 * share:g}" for share in view.scale)
    crop = {
        "whole": "" if view.squash else f"all of it, made {size} x {size}",
        "centre": f"central {size} x {size}",
        "random": f"random {size} x {size}",
        "area": f"random box of {low}-{high} % of the area, made {size} x {size}",
    }[view.crop]
    return ", ".join(filter(None, [first, resized, crop, "mirrored half of the time" if view.flip else ""]))
