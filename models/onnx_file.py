"""An ONNX file from anywhere, read into memory and brought up to the opset that the rest of the house builds on."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, external_data_helper, helper, inliner, numpy_helper, version_converter

from models.manifest import BundleError

OPSET = 17  # the first with LayerNormalization, the last that needs no new form of ReduceMean and friends
LARGE = 1024  # numbers in a tensor worth storing as float16
HALF = "/float16"
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
    return at_least_opset(model, OPSET, str(path))


def at_least_opset(model: onnx.ModelProto, opset: int, name: str) -> onnx.ModelProto:
    """The model at `opset` or what it has beyond; `name` is what an error calls it. Raises BundleError."""
    version = next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0)
    if version >= opset:
        return model
    try:
        model = version_converter.convert_version(model, opset)
    except (version_converter.ConvertError, RuntimeError, ValueError) as error:
        repair = f"export it with opset {opset}"
        raise BundleError(f"{name} has opset {version} and cannot be converted ({first_line(error)}): {repair}") from error
    model.ir_version = max(model.ir_version, 8)  # the oldest that knows opset 17
    return model


def halve_weights(model: onnx.ModelProto) -> None:
    """Store large float32 weights as float16, each behind a Cast back, in place.

    The file is half as large and runs as fast: ONNX Runtime computes the Casts once, when it loads the model. A weight is rounded by at
    most 1/2,048 of itself; a tensor that float16 cannot hold (beyond 65,504) stays as it is.
    """
    given = {value.name for value in model.graph.input}
    kept, casts = [], []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in given and int(np.prod(tensor.dims)) >= LARGE:
            values = numpy_helper.to_array(tensor)
            if np.abs(values).max() <= np.finfo(np.float16).max:
                casts.append(helper.make_node("Cast", [tensor.name + HALF], [tensor.name], tensor.name + HALF, to=TensorProto.FLOAT))
                tensor = numpy_helper.from_array(values.astype(np.float16), tensor.name + HALF)  # noqa: PLW2901
        kept.append(tensor)
    nodes = [*casts, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)


def widen_weights(model: onnx.ModelProto) -> None:
    """Undo `halve_weights` in place: float16 weights behind a Cast become float32 ones, for what looks for weights in initializers."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    casts = [
        node
        for node in model.graph.node
        if node.op_type == "Cast" and node.input[0] in weights and node.attribute[0].i == TensorProto.FLOAT
    ]
    for node in casts:
        values = numpy_helper.to_array(weights[node.input[0]]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for name in {node.input[0] for node in casts} - used:
        model.graph.initializer.remove(weights[name])


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
