"""The embedded backbone: a small ViT whose weights ship with the package, and the script that trained them.

    python -m fcil.model.tiny /usr/share/datasets/fashion-mnist fcil/assets/vit_tiny_fashion.safetensors

Pre-training is supervised, on the 60,000 training images of Fashion-MNIST and never on digits: the class of each
garment and which way up it is, under strong augmentation (affine maps, coarse resolutions, outlines, contrast).
"""

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from fcil.data.families.idx import read_idx
from fcil.seeding import torch_generator

__all__ = ["vit_tiny"]

SIZE = 32


def vit_tiny(img_size: int = SIZE) -> VisionTransformer:
    """Build the ViT: 4 blocks of width 128 on 4x4 patches, 0.68 M parameters, class token as feature, no classifier."""
    return VisionTransformer(
        img_size=img_size, patch_size=4, embed_dim=128, depth=4, num_heads=4, mlp_ratio=3.0, num_classes=0
    )


def _uniform(low: float, high: float, size: tuple[int, ...], gen: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(size, generator=gen)


def _affine(images: Tensor, gen: torch.Generator) -> Tensor:
    """Rotate by up to 35 degrees, scale by 0.6 to 1.3, stretch, shear and shift each image."""
    n = len(images)
    angle = _uniform(-0.6, 0.6, (n,), gen)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)
    shape = torch.zeros(n, 2, 2)
    shape[:, 0, 0], shape[:, 1, 1] = _uniform(0.75, 1.6, (n,), gen), _uniform(0.75, 1.6, (n,), gen)
    shape[:, 0, 1] = _uniform(-0.3, 0.3, (n,), gen)
    theta = torch.cat([rotation @ shape, _uniform(-0.3, 0.3, (n, 2, 1), gen)], 2)
    return F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False)


def _coarsen(images: Tensor, gen: torch.Generator) -> Tensor:
    """Resample the batch to a lower resolution, 8 to 32 pixels a side, and back."""
    side = int(torch.randint(8, SIZE + 1, (), generator=gen))
    small = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, size=(SIZE, SIZE), mode="bilinear")


def augment(images: Tensor, turns: Tensor, gen: torch.Generator) -> Tensor:
    """Turn images by `turns` quarter turns and distort them: (n, 1, 28, 28) in 0..1 -> (n, 3, 32, 32) in -1..1."""
    images = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear")
    images = torch.stack([image.rot90(int(k), (1, 2)) for image, k in zip(images, turns, strict=True)])
    images = _affine(images, gen)
    outline = F.max_pool2d(images, 3, 1, 1) + F.max_pool2d(-images, 3, 1, 1)  # dilation minus erosion
    images = torch.where(torch.rand(len(images), 1, 1, 1, generator=gen) < 0.4, outline, images)
    images = _coarsen(images, gen) * _uniform(0.6, 1.6, (len(images), 1, 1, 1), gen)
    return (images.clamp(0, 1) * 2 - 1).expand(-1, 3, -1, -1)


def pretrain(root: Path, epochs: int, seed: int, batch: int = 128, peak: float = 1e-3) -> VisionTransformer:
    """Train the ViT on Fashion-MNIST's training part: cross-entropy on the 10 garments and on the 4 quarter turns."""
    gen = torch_generator(seed, "pretrain")
    images = torch.tensor(read_idx(root / "train-images-idx3-ubyte.gz"))[:, None]
    labels = torch.tensor(read_idx(root / "train-labels-idx1-ubyte.gz")).long()
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)  # timm initialises from the global state
        model, head = vit_tiny(), nn.Linear(128, 14)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.05)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=0.1)
    start = time.monotonic()
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=gen)
        for indices in order[: len(order) // batch * batch].view(-1, batch):
            turns = torch.randint(0, 4, (batch,), generator=gen)
            x = augment(images[indices].float() / 255, turns, gen)
            with torch.autocast("cpu", torch.bfloat16):
                logits = head(model(x)).float()
            loss = F.cross_entropy(logits[:, :10], labels[indices]) + 0.5 * F.cross_entropy(logits[:, 10:], turns)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}: last loss {loss.item():.3f}, {time.monotonic() - start:.0f} s", flush=True)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Pre-train the embedded ViT on Fashion-MNIST.")
    parser.add_argument("root", type=Path, help="folder with Fashion-MNIST's gzipped IDX files")
    parser.add_argument("out", type=Path, help="where to write the weights (.safetensors, float16)")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = pretrain(args.root, args.epochs, args.seed)
    meta = {"trained_on": "Fashion-MNIST train", "epochs": str(args.epochs), "seed": str(args.seed)}
    save_file({name: w.half().contiguous() for name, w in model.state_dict().items()}, args.out, meta)
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
