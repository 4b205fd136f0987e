"""The execution provider is chosen, and broken installations are found."""

import pytest

from models.manifest import BundleError
from models.runtime import check_installation, check_session, choose_providers

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("device", "available", "chosen"),
    [
        ("cpu", [CPU], [CPU]),
        ("cpu", [CUDA, CPU], [CPU]),
        ("auto", [CPU], [CPU]),
        ("auto", [CUDA, CPU], [CUDA, CPU]),
        ("cuda", [CUDA, CPU], [CUDA, CPU]),
    ],
)
def test_the_device_decides(device: str, available: list[str], chosen: list[str]) -> None:
    """auto takes CUDA where it is offered; cpu never does."""
    assert choose_providers(device, available) == chosen  # type: ignore[arg-type]


def test_cuda_asked_for_and_not_offered_is_an_error() -> None:
    """Nobody who pays for a GPU is served slowly in silence."""
    with pytest.raises(BundleError, match=r"install 'cloneguard\[gpu\]'"):
        choose_providers("cuda", [CPU])


def test_cuda_offered_but_not_started_is_an_error_unless_auto() -> None:
    """ONNX Runtime falls back quietly when a driver is missing; we do not."""
    with pytest.raises(BundleError, match="did not start"):
        check_session("cuda", [CPU])
    check_session("auto", [CPU])
    check_session("cuda", [CUDA, CPU])


@pytest.mark.parametrize("both", [{"onnxruntime", "onnxruntime-gpu"}, {"faiss-cpu", "faiss-gpu-cuvs"}])
def test_cpu_and_gpu_distributions_over_each_other_are_an_error(both: set[str]) -> None:
    """The message is the line that repairs it."""
    with pytest.raises(BundleError, match="pip uninstall -y"):
        check_installation(lambda name: name in both)


def test_one_of_each_is_fine() -> None:
    """As the extras install them."""
    check_installation(lambda name: name in {"onnxruntime-gpu", "faiss-cpu"})
