"""Where an ONNX classifier begins and ends: its image input, its class scores, its last dense layer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from models.manifest import BundleError
from models.onnx_file import first_line, open_session

DENSE = {"Gemm", "MatMul", "Conv"}
# What may stand between the last dense layer and the class scores: shape changes, biases, scales, pooling.
BESIDE_A_CONSTANT = {"Add", "Sub", "Mul", "Div"}
STRAIGHT_ON = {
    *("Identity", "Dropout", "Cast", "Flatten", "Squeeze", "Reshape", "Relu", "GlobalAveragePool", "AveragePool", "ReduceMean"),
    *("QuantizeLinear", "DequantizeLinear"),
}


@dataclass(frozen=True, slots=True)
class Input:
    """The classifier's own input: element type, axis order, and the batch size it was exported for (None: free)."""

    name: str
    is_uint8: bool
    is_nhwc: bool
    batch: int | None

    def feed(self, image: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> dict[str, NDArray[np.generic]]:
        """One image (H, W, 3), repeated to the batch size, normalised as the classifier expects it."""
        pixels = image if self.is_uint8 else ((image / 255 - np.array(mean)) / np.array(std)).astype(np.float32)
        batch = np.repeat(pixels[None], self.batch or 1, axis=0)
        return {self.name: np.ascontiguousarray(batch if self.is_nhwc else batch.transpose(0, 3, 1, 2))}


class Graph:
    """Who makes a tensor, and whether it depends on the image."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.producers = {output: node for node in graph.node for output in node.output}
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self._constant: dict[str, bool] = dict.fromkeys(self.weights, True)
        given = {value.name for value in graph.input} - self.weights.keys()
        for node in graph.node:  # ONNX graphs are in topological order
            constant = node.op_type not in {"If", "Loop", "Scan"} and not given & set(node.input)
            constant = constant and all(self._constant.get(name, False) for name in node.input if name)
            self._constant.update(dict.fromkeys(node.output, constant))

    def varying(self, node: onnx.NodeProto) -> list[str]:
        """Inputs of a node that depend on the image."""
        return [name for name in node.input if name and not self._constant.get(name, False)]

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """The value of a weight or of a Constant node; None for what is computed."""
        if name in self.weights:
            return numpy_helper.to_array(self.weights[name])
        node = self.producers.get(name)
        if node is None or node.op_type != "Constant" or node.attribute[0].name != "value":
            return None
        return numpy_helper.to_array(node.attribute[0].t)

    def before_softmax(self, tensor: str) -> tuple[str, bool]:
        """The logits behind class probabilities, and whether there was a softmax to undo."""
        for node in self._backwards(tensor):
            if node.op_type in {"Softmax", "LogSoftmax"}:
                return node.input[0], True
            if node.op_type == "Sigmoid":
                raise BundleError(
                    "the model ends in Sigmoid, so an image may have several labels: export a classifier with one label an image"
                )
            if node.op_type not in {"Identity", "Cast", "Flatten", "Squeeze", "Reshape"}:
                break
        return tensor, False

    def head(self, logits: str) -> tuple[onnx.NodeProto, str]:
        """The last dense layer (Gemm, MatMul or 1x1 Conv) before the logits, and the tensor that it sees."""
        for node in self._backwards(logits):
            varying = self.varying(node)
            if node.op_type in DENSE and len(varying) == 1 and self._is_pointwise(node):
                return node, varying[0]
            if node.op_type not in STRAIGHT_ON and not (node.op_type in BESIDE_A_CONSTANT and len(varying) == 1):
                raise BundleError(
                    f"the layer before the class scores is {node.op_type}, not a dense one (Gemm, MatMul or 1x1 Conv with fixed weights): "
                    "export the model so that it ends in its last linear layer"
                )
        raise BundleError("the class scores do not come from a dense layer (Gemm, MatMul or 1x1 Conv): export the whole classifier")

    def _backwards(self, tensor: str) -> Iterator[onnx.NodeProto]:
        while tensor in self.producers:
            node = self.producers[tensor]
            yield node
            tensor = next(iter(self.varying(node)), "")

    def _is_pointwise(self, node: onnx.NodeProto) -> bool:
        kernel = next((list(entry.ints) for entry in node.attribute if entry.name == "kernel_shape"), [1])
        return node.op_type != "Conv" or set(kernel) == {1}


def image_input(graph: onnx.GraphProto, size: int) -> Input:
    """Find the one RGB image input, for images of `size` pixels a side. Raises BundleError."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise BundleError(f"the model has {len(inputs)} inputs ({names}): export it with the image as its only input")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type not in {TensorProto.FLOAT, TensorProto.UINT8}:
        kind = TensorProto.DataType.Name(tensor.elem_type)
        raise BundleError(f"the input {inputs[0].name} is {kind}: export the model in float32 (or with uint8 pixels)")
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    if len(dims) != 4 or 3 not in (dims[1], dims[3]):
        shape = ", ".join(str(dim or "?") for dim in dims)
        raise BundleError(f"the input {inputs[0].name} has shape ({shape}): export the model for RGB images, (N, 3, H, W) or (N, H, W, 3)")
    nhwc = dims[1] != 3
    wanted = [dim for dim in (dims[1:3] if nhwc else dims[2:4]) if dim is not None]
    if any(dim != size for dim in wanted):
        raise BundleError(f"the model takes images of {'x'.join(map(str, wanted))} pixels, not {size}x{size}: give its own size")
    return Input(inputs[0].name, is_uint8=tensor.elem_type == TensorProto.UINT8, is_nhwc=nhwc, batch=dims[0])


def class_scores(path: Path, source: Input, feeds: list[dict[str, NDArray[np.generic]]], classes: int) -> tuple[str, NDArray[np.float32]]:
    """Run the original on single images; return the name of its class scores and their rows (images, classes). Raises BundleError."""
    session = open_session(path)
    names = [output.name for output in session.get_outputs()]
    try:
        runs = [session.run(names, feed) for feed in feeds]
    except Exception as error:  # ONNX Runtime's own errors share no narrower base
        raise BundleError(f"the model does not run on such an image: {first_line(error)}") from error
    shape = (source.batch or 1, classes)
    fitting = [i for i, value in enumerate(runs[0]) if value.shape == shape and value.dtype == np.float32]
    if len(fitting) != 1:
        found = ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in zip(names, runs[0], strict=True))
        repair = "give one label a class" if not fitting else "export only one of them"
        raise BundleError(f"the model has {len(fitting)} float32 outputs of shape (N, {classes}), not one (its outputs: {found}): {repair}")
    return names[fitting[0]], np.stack([run[fitting[0]][0] for run in runs])
