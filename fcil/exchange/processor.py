"""Tells kinds of processor apart, as finely as last bits of results differ between them.

torch's own name for a processor ("AVX512") is too coarse. MKL, oneDNN and OpenBLAS choose their kernels by vendor, by
model and by single instructions, and environment variables may tell them to take others: with each of
MKL_CBWR=COMPATIBLE, ONEDNN_MAX_CPU_ISA=AVX2 and OPENBLAS_CORETYPE=Haswell, products on one processor had other last
bits, and torch's name for it was the same.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fcil.threads import linear_algebra

__all__ = ["described_processor", "processor_kind"]

MODEL = ("vendor_id", "cpu family", "model", "model name", "CPU implementer", "CPU architecture", "CPU part")
"""Lines of /proc/cpuinfo that say which processor it is: those of x86, and those of ARM."""
FLAGS = ("flags", "Features")
VECTORS = re.compile(r"(sse|ssse|avx|amx|fma|f16c|asimd|sve|sme|bf16|i8mm|fphp|neon)")
"""The beginning of flags by which arithmetic is chosen; others come and go with kernels and hypervisors."""
ORDERS = re.compile(r"(MKL|ONEDNN|DNNL|OPENBLAS|BLIS|ATEN|NPY|TORCH_MKL|KMP_DETERMINISTIC)_")
"""The beginning of environment variables that may choose kernels."""
NO_ORDERS = re.compile(r"THREADS|DYNAMIC|VERBOSE|AFFINITY|MAIN_FREE|WARN")
"""Variables among them that choose no kernel; the number of threads is a setting, `run.threads`."""


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # not Linux
        return f"model name: {platform.machine()} {platform.processor()}"


def described_processor(
    cpuinfo: str, environment: Mapping[str, str], capability: str, libraries: list[str], gpus: list[str]
) -> dict[str, Any]:
    """Put together all that is known here by which libraries choose their kernels.

    Args:
        cpuinfo: text of /proc/cpuinfo, of which the first processor is read.
        capability: torch's name for the processor's instructions.
        libraries: those of linear algebra, each with the kernels that it has chosen.
    """
    first = cpuinfo.strip().split("\n\n")[0]
    lines = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    flags = {flag for key in FLAGS for flag in lines.get(key, "").split() if VECTORS.match(flag)}
    return {
        "capability": capability, "gpus": sorted(set(gpus)), "libraries": sorted(set(libraries)),
        "model": {key: lines[key] for key in MODEL if key in lines}, "flags": sorted(flags),
        "orders": {
            name: value for name, value in sorted(environment.items())
            if ORDERS.match(name) and not NO_ORDERS.search(name)
        },
    }  # fmt: skip


@cache
def processor_kind() -> str:
    """The kind of processor that this process computes on: work on one kind gives the same bits again.

    In words, and with a hash of all that tells two kinds apart.
    """
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    capability = torch.backends.cpu.get_cpu_capability()
    about = described_processor(_cpuinfo(), os.environ, capability, linear_algebra(), gpus)
    name = about["model"].get("model name", "")
    sha = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
    return ", ".join(filter(None, [capability, name, *about["gpus"], sha]))
