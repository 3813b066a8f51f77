"""The device on which clients compute: what "auto" precision means on it, its setup, and the memory in use."""

import os
from dataclasses import replace
from functools import cache

import torch

from fcil.config import Config
from fcil.errors import ConfigError
from fcil.model.precision import resolve

__all__ = [
    "PeakMemory", "check_device", "check_gpu_on_ray", "clients_device", "local_device", "repeatable", "resolved",
]  # fmt: skip


def check_device(name: str) -> None:
    """Raise ConfigError for a device that this process does not have."""
    try:
        device = torch.device("cpu" if name == "auto" else name)
    except RuntimeError:
        raise ConfigError(f'run.device = {name!r}: must be "cpu", "cuda", "cuda:<number>" or "auto"') from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f'run.device = {name!r}: torch sees {torch.cuda.device_count()} GPUs here; use "cpu" or "auto", or install '
            "a driver and a torch that fit (fcil doctor)"
        )


def check_gpu_on_ray(config: Config) -> None:
    """Raise ConfigError where a Ray worker or task would not get the GPU that the settings name."""
    run = config.run
    if run.device.startswith("cuda") and not run.gpus_per_client:
        raise ConfigError(
            f'run.device = "{run.device}": Ray hides GPUs from workers that ask for none; set run.gpus_per_client, '
            "for example 0.5 for two workers on one GPU"
        )
    if run.device.startswith("cuda:"):
        raise ConfigError(f'run.device = "{run.device}": Ray picks the GPU of each worker; write "cuda"')


def local_device(name: str) -> torch.device:
    """The device that `run.device` names in this process; "auto" is CUDA where there is a GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def clients_device(config: Config) -> torch.device:
    """The device of a run's clients, as far as it can be known here: Ray hides GPUs from workers that ask for none.

    Raises:
        ConfigError: the clients have GPUs, and this machine has none to judge them by.
    """
    run = config.run
    if run.exchange != "ray":
        return local_device(run.device)
    device = torch.device("cuda" if run.gpus_per_client and run.device != "cpu" else "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            'model.precision = "auto": the Ray workers have GPUs and this machine has none, so it cannot be told what '
            'they are good at; name it, for example model.precision = "bf16"'
        )
    return device


def resolved(config: Config) -> Config:
    """The settings with "auto" precision replaced by what it means here, so that all workers of a run use the same."""
    if config.model.precision != "auto":
        return config
    return replace(config, model=replace(config.model, precision=resolve("auto", clients_device(config))))


def repeatable(device: torch.device) -> None:
    """Let the same work give the same bits again on a GPU: fixed algorithms, and products in true float32.

    To be called before anything is on the device. What has no repeatable algorithm raises a RuntimeError that names it:
    only to warn would leave attention's backward pass, which has one, with the other.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, and for debugging


class PeakMemory:
    """Measures the most memory in use since it was made: allocated on the GPU, or resident in this process.

    A process has one peak at a time. On the CPU it takes Linux, which can forget the peak so far; elsewhere nothing
    is reported rather than the peak of the process's whole life.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._status = -1
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            forget, self._status = _files(os.getpid())
            os.write(forget, b"5")  # man 5 proc: resets VmHWM
        except OSError:
            self._status = -1

    def metrics(self) -> dict[str, float]:
        """The metric `peak_memory_bytes`; none where it is not known."""
        if self.device.type == "cuda":
            return {"peak_memory_bytes": float(torch.cuda.max_memory_allocated(self.device))}
        if self._status < 0:
            return {}
        status = os.pread(self._status, 1 << 14, 0)
        return {"peak_memory_bytes": 1024.0 * int(status.partition(b"VmHWM:")[2].split(None, 1)[0])}


@cache
def _files(process: int) -> tuple[int, int]:
    """Open the files by which Linux forgets and tells a process's peak, and leave them open: every client asks.

    Args:
        process: this one's number: a child that was forked has files of its own.
    """
    return os.open("/proc/self/clear_refs", os.O_WRONLY), os.open("/proc/self/status", os.O_RDONLY)
