"""ImageNet-R (Hendrycks et al., arXiv 2006.16241) and ImageNet-A (arXiv 1907.07174): 200 classes, no official split."""

from pathlib import Path

from fcil.data.family import IMAGENET_MEAN, IMAGENET_STD, PROTOCOL_TEST, PROTOCOL_TRAIN, Family, File, Listing
from fcil.data.settings import Data
from fcil.data.splits import split_classes
from fcil.data.transforms import View

__all__ = ["IMAGENET_A", "IMAGENET_R"]

SITE = "https://people.eecs.berkeley.edu/~hendrycks"


def _listing(root: Path, settings: Data) -> Listing:
    """List the images; classes go by WordNet number, as sorted folders, unless a split file numbers them otherwise."""
    return split_classes(root / settings.name, settings)


IMAGENET_R = Family(
    name="imagenet-r",
    source="Hendrycks et al., 2021: https://github.com/hendrycks/imagenet-r",
    listing=_listing,
    classes=200,
    counts=(30_000,),
    tasks=10,
    files=(File("imagenet-r.tar", f"{SITE}/imagenet-r.tar", "a61312130a589d0ca1a8fca1f2bd3337", "imagenet-r"),),
    shrunk=True,
    train_view=PROTOCOL_TRAIN,
    test_view=PROTOCOL_TEST,
)
IMAGENET_A = Family(
    name="imagenet-a",
    source="Hendrycks et al., 2021: https://github.com/hendrycks/natural-adv-examples",
    listing=_listing,
    classes=200,
    counts=(7_500,),
    tasks=10,
    files=(File("imagenet-a.tar", f"{SITE}/imagenet-a.tar", "c3e55429088dc681f30d81f4726b6595", "imagenet-a"),),
    shrunk=True,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    train_view=View(resize=256, crop="area", scale=(0.05, 1.0), flip=True),
    test_view=PROTOCOL_TEST,
)
