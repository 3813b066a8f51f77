"""EuroSAT (Helber et al., arXiv 1709.00029), RGB: 27,000 images of 64x64, ten classes, no official split.

Images are cached at their size and shown whole in training and in test, without augmentation, with the mean and std of
CLIP. LoRM's published runs show them so too, but without mean and std: that is `data.view = "identity"`.
"""

from pathlib import Path

from fcil.data.family import Family, File, Listing
from fcil.data.settings import Data
from fcil.data.splits import split_classes

__all__ = ["EUROSAT"]


def _listing(root: Path, settings: Data) -> Listing:
    return split_classes(root / "2750", settings)


EUROSAT = Family(
    name="eurosat",
    source="Helber et al., 2019: https://github.com/phelber/eurosat",
    listing=_listing,
    classes=10,
    counts=(27_000,),
    tasks=5,
    files=(
        File(
            "EuroSAT.zip",
            "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
            "c8fa014336c82ac7804f0398fcb19387",
            "2750",
        ),
    ),
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
