"""The versions of the packages, and the code of fcil, that a process works with."""

import hashlib
import platform
from functools import cache
from importlib import import_module, metadata
from pathlib import Path

__all__ = ["PACKAGES", "code_sha256", "versions"]

PACKAGES = ("fcil", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "safetensors", "flwr", "ray")

NOT_IN_WHEELS = ("hatch_build.py", "install_checkout.py")
"""Files of `fcil/` that make a wheel or an environment: pyproject.toml leaves them out of wheels."""


def versions() -> dict[str, str]:
    """Package -> its installed version, or "not installed"."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


@cache
def code_sha256() -> str:
    """SHA-256 of all Python files of fcil and of the shipped methods, wherever they are installed."""
    sha = hashlib.sha256()
    for package in ("fcil", "fcil.strategies"):
        root = Path(str(import_module(package).__file__)).parent
        strategies = root / "strategies"  # in a wheel they lie inside fcil, in a checkout beside it
        files = (p for p in root.rglob("*.py") if package != "fcil" or strategies not in p.parents)
        for path in sorted(p for p in files if p.name not in NOT_IN_WHEELS):
            sha.update(f"{package} {path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode())
            sha.update(path.read_bytes())
    return sha.hexdigest()
