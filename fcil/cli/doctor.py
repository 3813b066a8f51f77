"""Inspect this machine for `fcil doctor`: versions, hardware, and what is missing for which data set."""

from pathlib import Path

import torch

from fcil.data import FAMILIES, Data
from fcil.data.loading import readiness
from fcil.data.transforms import REFERENCE
from fcil.engine.provenance import commit
from fcil.errors import ConfigError
from fcil.exchange.device import local_device
from fcil.exchange.versions import versions
from fcil.model.backbone import describe_backbone
from fcil.model.precision import bf16_in_hardware, resolve
from fcil.model.settings import Model
from fcil.threads import cores

__all__ = ["findings"]


def _free_memory() -> str:
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free, whole = (int(fields[name].split()[0]) / 1e6 for name in ("MemAvailable", "MemTotal"))
        return f"{free:.1f} GB free of {whole:.1f} GB"
    except (OSError, KeyError, ValueError):
        return "unknown (no /proc/meminfo)"


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return ", ".join(f"{gpu.name} ({gpu.total_memory / 1e9:.0f} GB)" for gpu in gpus)


def _weights() -> str:
    try:
        width = describe_backbone(Model()).width
    except ConfigError as error:
        return f"missing: {error}"
    return f"ready (features of {width})"


def findings(root: str = "", size: int = REFERENCE) -> list[tuple[str, str]]:
    """Inspect this machine; gives pairs (what, its state) in the order to show.

    Args:
        root: folder with the files of all data sets; if empty, each set is looked for in its default folder.
        size: image size of the model in pixels, for which images would be prepared.
    """
    device = local_device("auto")
    return [
        *versions().items(),
        ("commit", commit() or "not a git checkout"),
        ("cores", f"{cores()} usable"),
        ("torch threads", str(torch.get_num_threads())),
        (
            "processor",
            f"{torch.backends.cpu.get_cpu_capability()}; bf16 {'in hardware' if bf16_in_hardware() else 'emulated'}",
        ),
        ("GPUs", _gpus()),
        ('precision "auto"', f"{resolve('auto', device)} on {device}"),
        ("memory", _free_memory()),
        ("embedded ViT", _weights()),
        *((f"data {name}", readiness(family, Data(name=name, root=root), size)) for name, family in FAMILIES.items()),
    ]
