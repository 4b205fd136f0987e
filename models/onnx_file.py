"""An ONNX file from anywhere, read into memory and brought up to the opset that the rest of the house builds on."""

from pathlib import Path

import onnx
import onnxruntime
from onnx import external_data_helper, inliner, version_converter

from models.manifest import BundleError

OPSET = 17  # the first with LayerNormalization, the last that needs no new form of ReduceMean and friends
MAX_BYTES = 2 * 1024**3  # protobuf's limit of one message, which is what a bundle's single model.onnx is


def read(path: Path) -> onnx.ModelProto:
    """Read a model with its external data, its functions inlined, at opset 17 or later. Raises BundleError."""
    try:
        size = path.stat().st_size
        _check_size(size, path)
        model = onnx.load(str(path), load_external_data=False, format="protobuf")
    except BundleError:
        raise
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # protobuf's DecodeError: onnx promises no type here
        raise BundleError(f"{path} is not an ONNX file: export the model with torch.onnx.export or tf2onnx first") from error
    if not model.ir_version or not model.graph.node:
        raise BundleError(f"{path} is not an ONNX file: export the model with torch.onnx.export or tf2onnx first")
    _load_external_data(model, path, size)
    if model.functions:
        model = inliner.inline_local_functions(model)
    return _at_least_opset(model, path)


def open_session(model: onnx.ModelProto | Path, *, threads: int = 1) -> onnxruntime.InferenceSession:
    """Run a model on the CPU, silently, in `threads` threads. Raises BundleError when ONNX Runtime refuses it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors arrive as exceptions
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors share no narrower base
        raise BundleError(f"ONNX Runtime cannot load the model: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's text, for messages that are one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_size(size: int, path: Path) -> None:
    if size > MAX_BYTES:
        raise BundleError(f"{path} with its external data is larger than 2 GB, the most that fits one ONNX file: use a smaller model")


def _load_external_data(model: onnx.ModelProto, path: Path, size: int) -> None:
    outside = [tensor for tensor in model.graph.initializer if external_data_helper.uses_external_data(tensor)]
    names = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
    try:
        total = size + sum((path.parent / name).stat().st_size for name in names)
        _check_size(total, path)
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise BundleError(f"{path}: its external data ({', '.join(sorted(names))}) cannot be read: copy it beside the model") from error


def _at_least_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    version = next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0)
    if version >= OPSET:
        return model
    try:
        model = version_converter.convert_version(model, OPSET)
    except (version_converter.ConvertError, RuntimeError, ValueError) as error:
        repair = f"export it with opset {OPSET}"
        raise BundleError(f"{path} has opset {version} and cannot be converted ({first_line(error)}): {repair}") from error
    model.ir_version = max(model.ir_version, 8)  # the oldest that knows opset 17
    return model
