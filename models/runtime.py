"""Where ONNX Runtime runs: choose the execution provider, and find broken installations before they fail in odd ways."""

from collections.abc import Callable, Collection
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from models.manifest import BundleError

Device = Literal["auto", "cpu", "cuda"]

# Distributions that unpack to the same import name: with both there the CPU one silently wins.
RIVALS = (
    ("onnxruntime", "onnxruntime-gpu"),
    ("faiss-cpu", "faiss-gpu-cuvs"),
)


def installed(distribution: str) -> bool:
    """Tell whether a distribution is installed in this environment."""
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def check_installation(is_installed: Callable[[str], bool] = installed) -> None:
    """Raise BundleError when CPU and GPU distributions of one library lie over each other, with the line that repairs it."""
    for cpu, gpu in RIVALS:
        if is_installed(cpu) and is_installed(gpu):
            raise BundleError(
                f"{cpu} and {gpu} are both installed and share their files; repair with: "
                f"pip uninstall -y {cpu} {gpu} && pip install 'cloneguard[gpu]' (or [cpu])"
            )


def choose_providers(device: Device, available: Collection[str]) -> list[str]:
    """ONNX Runtime execution providers for a device, best first.

    `auto` takes CUDA where the runtime offers it. Raises BundleError when CUDA was asked for and is not offered.
    """
    if device == "cpu" or (device == "auto" and "CUDAExecutionProvider" not in available):
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in available:
        raise BundleError("device cuda was asked for, but this ONNX Runtime has no CUDA provider: install 'cloneguard[gpu]', or use auto")
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def check_session(device: Device, active: Collection[str]) -> None:
    """Raise BundleError when CUDA was asked for and the session fell back: a driver or library is missing."""
    if device == "cuda" and "CUDAExecutionProvider" not in active:
        raise BundleError("device cuda was asked for, but CUDA did not start in this session: check the driver, or use auto")
