"""A bundle's graph to int8: static quantisation with ONNX Runtime, everything but the two ends."""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from models.anatomy import Graph
from models.manifest import BundleError
from models.onnx_file import first_line, widen_weights

HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
# Operators with an int8 kernel on the CPU; others (normalisation, hard-swish, softmax) would only be wrapped in conversions.
QUANTISED = [
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool"),
    *("Concat", "Pad", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"),
]
CLOSING = {"Add", "Relu", "Clip"}
BATCH = 64


def quantize(model: onnx.ModelProto, images: Iterable[NDArray[np.uint8]]) -> onnx.ModelProto:
    """Return an int8 version of a bundle's graph, or of a backbone's branch, calibrated on training images (uint8 batches (n, H, W, 3)).

    Weights are int8 a channel, activations uint8 a tensor. An activation's range is the mean over batches of 64 of
    their extremes: on the CIFAR-10 network the logits' mean error is 0.7% of their spread, against 0.8% for the
    extremes of all images and 0.8% to 2.2% for percentiles, which also need every activation in memory. The
    normalisation before the first convolution and all that follows the last one (pooling, the dense head, a backbone's
    projection, the outputs) stay float32: they cost nothing, and names, types and the free batch axis stay as they are.
    Needs 8-bit products without saturation (x86 with VNNI, ARM). Raises BundleError.
    """
    plain_model = onnx.ModelProto()
    plain_model.CopyFrom(model)
    widen_weights(plain_model)
    fold_pooled_normalisation(plain_model)
    for i, node in enumerate(plain_model.graph.node):
        node.name = f"{i}_{node.op_type}"  # layers are chosen by name, and names may be absent or repeated
    with tempfile.TemporaryDirectory() as folder, _silence():
        folded, plain, int8 = (Path(folder) / f"{name}.onnx" for name in ("folded", "plain", "int8"))
        onnx.save(plain_model, str(folded))
        try:
            # Shapes of image networks follow without symbolic inference, which would need sympy.
            quant_pre_process(str(folded), str(plain), skip_symbolic_shape=True)
            quantize_static(
                str(plain),
                str(int8),
                _Batches(images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTISED,
                nodes_to_exclude=_ends(onnx.load(str(plain)).graph),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"CalibMovingAverage": True},
            )
            return onnx.load(str(int8))
        except BundleError:
            raise
        except Exception as error:  # ONNX Runtime's own errors share no narrower base
            raise BundleError(f"the model cannot be quantised ({first_line(error)}): make the bundle without int8") from error


def fold_pooled_normalisation(model: onnx.ModelProto) -> int:
    """Rewrite Conv, MaxPool, BatchNormalization, Relu as Conv, Relu, MaxPool, in place, and return how often.

    ONNX Runtime folds a normalisation only into the convolution right before it; one behind the pooling would stay
    float between two int8 layers. With positive scales it is increasing, as is Relu, so both commute with the maximum.
    """
    graph = Graph(model.graph)
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    folded: list[onnx.NodeProto] = []
    for norm in model.graph.node:
        pool = graph.producers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        conv = graph.producers.get(pool.input[0]) if pool and pool.op_type == "MaxPool" else None
        after = users.get(norm.output[0], []) if conv and conv.op_type == "Conv" else []
        if not pool or not conv or [node.op_type for node in after] != ["Relu"]:
            continue
        if len(users[conv.output[0]]) > 1 or len(users[pool.output[0]]) > 1 or not _fold(model, graph, conv, norm):
            continue
        (relu,) = after
        before, final = conv.output[0], relu.output[0]
        relu_first = onnx.helper.make_node("Relu", [before], [norm.output[0]], relu.name)
        pooled = onnx.NodeProto()
        pooled.CopyFrom(pool)
        pooled.input[0], pooled.output[0] = norm.output[0], final
        pool.CopyFrom(relu_first)
        norm.CopyFrom(pooled)
        folded.append(relu)
    for relu in folded:
        model.graph.node.remove(relu)
    del model.graph.value_info[:]  # shapes of the old order
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
    return len(folded)


def _fold(model: onnx.ModelProto, graph: Graph, conv: onnx.NodeProto, norm: onnx.NodeProto) -> bool:
    """Multiply a normalisation with positive scales into a convolution; False where weights are not constant."""
    constants = [graph.constant(name) for name in (*norm.input[1:5], *conv.input[1:])]
    values = [np.asarray(value, dtype=np.float64) for value in constants if value is not None]
    if len(values) < len(constants):
        return False
    gamma, beta, mean, variance, weight = values[:5]
    bias = values[5] if len(values) == 6 else np.zeros(1)
    epsilon = next((entry.f for entry in norm.attribute if entry.name == "epsilon"), 1e-5)
    factor = gamma / np.sqrt(variance + epsilon)
    if not (factor > 0).all():
        return False
    folded = {f"{norm.output[0]}/weight": weight * factor.reshape(-1, 1, 1, 1), f"{norm.output[0]}/bias": (bias - mean) * factor + beta}
    for name, value in folded.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    inputs = [conv.input[0], *folded]
    del conv.input[:]
    conv.input.extend(inputs)
    return True


def _ends(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes before the first heavy layer and of those after the last one, dense layers behind `features` included.

    Sums and rectifiers right behind a heavy layer belong to it: without its Relu a convolution would spend half of
    its 256 levels on values that are cut off next.
    """
    floating = _behind_features(graph)
    if any(output.name == "logits" for output in graph.output):
        head = Graph(graph).head("logits")[0]
        floating |= {head.name} if head.op_type != "Conv" else set()
    inner = {node.name for node in graph.node if node.op_type in HEAVY and node.name not in floating}
    tensors: set[str] = set()  # that lead to a heavy layer
    leading: set[str] = set()
    for node in reversed(graph.node):
        if node.name in inner or tensors & set(node.output):
            leading.add(node.name)
            tensors.update(node.input)
    weights = {tensor.name for tensor in graph.initializer}
    quantised: set[str] = set()  # tensors that come out of int8 layers
    ends = []
    for node in graph.node:
        inputs = {name for name in node.input if name} - weights
        closing = node.op_type in CLOSING and inputs <= quantised
        if node.name in inner or (inputs & quantised and (node.name in leading or closing)):
            quantised.update(node.output)
        else:
            ends.append(node.name)
    return ends


def _behind_features(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that see `features`, or a vector that is a part of it: a backbone's projection, for one."""
    vectors = {"features"}
    for node in reversed(graph.node):
        if node.op_type in {"Concat", "Identity", "Flatten"} and vectors & set(node.output):
            vectors.update(node.input)
    behind: set[str] = set()
    for node in graph.node:
        if vectors & set(node.input):
            vectors.update(node.output)
            behind.add(node.name)
    return behind


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Images in batches of one size, whatever sizes they come in: the calibrated ranges depend on it."""

    def __init__(self, images: Iterable[NDArray[np.uint8]]) -> None:
        self._batches = self._cut(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}

    @staticmethod
    def _cut(images: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        waiting: list[NDArray[np.uint8]] = []
        for batch in images:
            waiting.extend(batch)
            while len(waiting) >= BATCH:
                yield np.stack(waiting[:BATCH])
                del waiting[:BATCH]
        if waiting:
            yield np.stack(waiting)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep ONNX Runtime's advice off the terminal: it logs to the root logger, which it would configure on the way."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
