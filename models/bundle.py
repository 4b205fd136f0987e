"""The recognizer that the server runs: a bundle directory and an ONNX Runtime session, without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.manifest import BundleError, Manifest, Precision, verify
from models.runtime import Device, check_installation, check_session, choose_providers

try:
    import onnxruntime
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("ONNX Runtime is missing: install one of 'cloneguard[cpu]' and 'cloneguard[gpu]'", name=error.name) from error

BUNDLED = Path(__file__).parent / "bundles"
OUTPUTS = ("logits", "features", "embedding")


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What one pass gives for n images: logits (n, classes), features (n, d), embedding (n, e), all float32."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    embedding: NDArray[np.float32]


class Bundle:
    """A loaded recognizer. `infer` may be called from several threads."""

    def __init__(self, directory: Path, manifest: Manifest, session: onnxruntime.InferenceSession, *, precision: str) -> None:
        self.directory, self.manifest, self.precision = directory, manifest, precision
        self._session = session

    @property
    def model(self) -> str:
        """Name and version, as keyed decisions and the store's index know the recognizer."""
        return f"{self.manifest.name}@{self.manifest.version}"

    @property
    def providers(self) -> list[str]:
        """The execution providers that the session really uses, best first."""
        active: list[str] = self._session.get_providers()
        return active

    def infer(self, images: NDArray[np.uint8]) -> Outputs:
        """Run the graph once on uint8 images (n, size, size, 3)."""
        return Outputs(*self._session.run(OUTPUTS, {"images": images}))

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the classifier alone on uint8 images (n, size, size, 3): half the work where a backbone stands beside it."""
        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True
        logits: NDArray[np.float32] = self._session.run(OUTPUTS[:1], {"images": images}, options)[0]
        return logits

    def infer_all(self, images: NDArray[np.uint8], *, batch: int = 256) -> Outputs:
        """Run the graph on any number of images, in batches."""
        parts = [self.infer(images[i : i + batch]) for i in range(0, len(images), batch)]
        return Outputs(*(np.concatenate([getattr(part, name) for part in parts]) for name in OUTPUTS))

    def warm_up(self, *, max_batch: int) -> Outputs:
        """Run small and large batches once, so that no client pays for lazy allocation; returns what the largest gave.

        Raises BundleError for a graph that does not run, or whose outputs do not have the promised shapes.
        """
        size, classes = self.manifest.input.size, len(self.manifest.labels)
        for n in sorted({1, 2, max_batch}):
            try:
                outputs = self.infer(np.zeros((n, size, size, 3), dtype=np.uint8))
            except Exception as error:  # ONNX Runtime's own errors share no narrower base
                raise BundleError(f"{self.directory}: the model does not run on {n} images of {size}x{size}: {error}") from error
            if outputs.logits.shape != (n, classes):
                raise BundleError(f"{self.directory}: logits have shape {outputs.logits.shape}, but {classes} labels need {(n, classes)}")
            for name in ("features", "embedding"):
                shape = getattr(outputs, name).shape
                if len(shape) != 2 or shape[0] != n:
                    raise BundleError(f"{self.directory}: {name} has shape {shape}, expected ({n}, d)")
        return outputs


def locate(bundle: str | Path) -> Path:
    """Find a bundle by directory or by the name of one that ships with the package. Raises BundleError."""
    for directory in (Path(bundle), BUNDLED / bundle):
        if (directory / "bundle.json").is_file():
            return directory
    names = sorted(path.parent.name for path in BUNDLED.glob("*/bundle.json"))
    raise BundleError(f"no bundle {str(bundle)!r}: neither a directory with a bundle.json nor one of {', '.join(names)}")


def load(bundle: str | Path, *, device: Device = "auto", precision: Literal["auto", "fp32", "int8"] = "auto", threads: int = 1) -> Bundle:
    """Load and verify a bundle. Raises BundleError with one line that says what is wrong."""
    check_installation()
    directory = locate(bundle)
    manifest = verify(directory)
    providers = choose_providers(device, onnxruntime.get_available_providers())
    chosen, session = _open(directory, manifest, providers, precision=precision, threads=threads)
    check_session(device, session.get_providers())
    if providers[0] not in session.get_providers():  # auto, and CUDA did not start: what is fast there may be slow here
        chosen, session = _open(directory, manifest, ["CPUExecutionProvider"], precision=precision, threads=threads)
    path = directory / manifest.models[chosen]
    missing = [name for name in OUTPUTS if name not in {output.name for output in session.get_outputs()}]
    inputs = [(i.name, i.type, len(i.shape)) for i in session.get_inputs()]
    if missing or inputs != [("images", "tensor(uint8)", 4)]:
        raise BundleError(f"{path}: expected uint8 `images` (N, H, W, 3) in and {', '.join(OUTPUTS)} out; make it with `cloneguard bundle`")
    return Bundle(directory, manifest, session, precision=chosen)


def _open(
    directory: Path, manifest: Manifest, providers: list[str], *, precision: Literal["auto", "fp32", "int8"], threads: int
) -> tuple[Precision, onnxruntime.InferenceSession]:
    chosen = precision if precision != "auto" else manifest.default_precision["cuda" if "CUDAExecutionProvider" in providers else "cpu"]
    if chosen not in manifest.models:
        raise BundleError(f"{directory}: no {chosen} model in this bundle (there: {', '.join(manifest.models)})")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning starves the event loop of its core
    path = directory / manifest.models[chosen]
    try:
        return chosen, onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own errors share no narrower base
        raise BundleError(f"{path}: not a model that ONNX Runtime can load: {str(error).splitlines()[0]}") from error
