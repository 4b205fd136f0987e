"""Any ONNX image classifier to a bundle's graph: uint8 pixels in; logits, features and embedding out of one pass."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper, shape_inference
from onnx.utils import Extractor

from models.anatomy import Graph, Input, class_scores, image_input
from models.manifest import BundleError
from models.onnx_file import first_line, open_session, read

PREFIX = "net/"
PROOF_IMAGES = 3


def prepare(path: Path, *, classes: int, size: int, mean: Sequence[float], std: Sequence[float]) -> onnx.ModelProto:
    """Read a classifier and return a bundle's graph: `images` uint8 (N, size, size, 3) to `logits`, `features`, `embedding`.

    `mean` and `std` are of pixels in 0..1, one a colour; a classifier that takes uint8 normalises itself and asks
    for 0 and 1. `features` is what its last dense layer sees, `embedding` the same. The result was run: its rows in
    batches of 1 and of 3 are those of the original. Raises BundleError with one line that says what to do.
    """
    if len(mean) != 3 or len(std) != 3 or not np.isfinite([*mean, *std]).all() or min(std) <= 0:
        raise BundleError("mean and std need three finite numbers each, one a colour, and std must be above 0")
    model = read(path)
    source = image_input(model.graph, size)
    if source.is_uint8 and (any(mean) or any(value != 1 for value in std)):
        raise BundleError("the model takes uint8 pixels and normalises them itself: give mean 0 0 0 and std 1 1 1")
    images = np.random.default_rng(0).integers(0, 256, (PROOF_IMAGES, size, size, 3), dtype=np.uint8)
    output, expected = class_scores(path, source, [source.feed(image, mean, std) for image in images], classes)
    walker = Graph(model.graph)
    logits, is_probability = walker.before_softmax(output)
    head, features = walker.head(logits)
    if source.batch is not None:
        _free_batch_axis(model, walker, source.batch)
    is_map = head.op_type == "Conv"
    prepared = _assemble(model, source, (logits, features), is_map=is_map, size=size, mean=mean, std=std)
    was_fixed = source.batch is not None
    repair = "its batch axis is fixed and cannot be freed: export it with a dynamic batch axis" if was_fixed else "please report this model"
    return prove(prepared, images, expected, is_probability=is_probability, repair=repair)


def _free_batch_axis(model: onnx.ModelProto, graph: Graph, batch: int) -> None:
    """Turn the batch size that an exporter baked in into a free one, in the signature and in constant target shapes."""
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name not in graph.weights and len(dims) > 0 and dims[0].dim_value == batch:
            dims[0].dim_param = "N"
    for i, node in enumerate(model.graph.node):
        shape = graph.constant(node.input[1]) if node.op_type == "Reshape" and graph.varying(node) else None
        if shape is not None and shape.size > 1 and shape[0] == batch:
            freed = shape.astype(np.int64)
            freed[0] = 0 if (freed == -1).any() else -1  # 0 copies the axis, -1 takes what is left
            name = f"free_shape_{i}"
            model.graph.initializer.append(numpy_helper.from_array(freed, name))
            node.input[1] = name


def _assemble(
    model: onnx.ModelProto, source: Input, ends: tuple[str, str], *, is_map: bool, size: int, mean: Sequence[float], std: Sequence[float]
) -> onnx.ModelProto:
    """Put the classifier between a prologue (pixels to its own input) and the three outputs; drop what nothing needs."""
    del model.graph.value_info[:]  # shapes inferred for the old batch axis
    model = compose.add_prefix(model, PREFIX)
    graph, start = model.graph, PREFIX + source.name
    logits, seen = (PREFIX + name for name in ends)
    # Bytes are turned before they become floats: the other way round costs fifteen times as much at 224x224.
    nodes = [helper.make_node("Identity" if source.is_nhwc else "Transpose", ["images"], ["turned"], "turn")]
    if not source.is_nhwc:
        nodes[0].attribute.append(helper.make_attribute("perm", [0, 3, 1, 2]))
    if source.is_uint8:
        nodes[0].output[0] = start
    else:
        axes = (1, 1, 1, 3) if source.is_nhwc else (1, 3, 1, 1)
        scale = 1 / (255 * np.array(std))
        shift = np.array(mean) / np.array(std)
        for name, value in (("pixel_scale", scale), ("pixel_shift", shift)):
            graph.initializer.append(numpy_helper.from_array(value.astype(np.float32).reshape(axes), name))
        nodes += [
            helper.make_node("Cast", ["turned"], ["pixels"], "to_float", to=TensorProto.FLOAT),
            helper.make_node("Mul", ["pixels", "pixel_scale"], ["scaled"], "scale"),
            helper.make_node("Sub", ["scaled", "pixel_shift"], [start], "shift"),
        ]
    body = list(graph.node)
    if is_map:
        # A 1x1 Conv is applied at every place and averaged: being linear, it sees the average of its input.
        body.append(helper.make_node("GlobalAveragePool", [seen], ["averaged"], "average"))
        seen = "averaged"
    body += [
        helper.make_node("Flatten", [seen], ["features"], "features", axis=1),
        helper.make_node("Identity", ["features"], ["embedding"], "embedding"),
        helper.make_node("Flatten", [logits], ["logits"], "logits", axis=1),
    ]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([*nodes, *body])
    graph.input.append(helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3]))
    outputs = ("logits", "features", "embedding")
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None]) for name in outputs)
    return Extractor(model).extract_model(["images"], list(outputs))


def prove(
    model: onnx.ModelProto, images: NDArray[np.uint8], expected: NDArray[np.float32], *, is_probability: bool, repair: str
) -> onnx.ModelProto:
    """Run the graph; return it with the shapes that it really gave.

    Raises BundleError, with the repair that it is given, when batches of 1 and of more have other rows, or the logits are not `expected`
    (N, classes), up to a softmax when `is_probability`.
    """
    names = [output.name for output in model.graph.output]
    try:
        onnx.checker.check_model(model)
        session = open_session(model)
        together = session.run(names, {"images": images})
        alone = [session.run(names, {"images": image[None]}) for image in images]
    except Exception as error:  # the checker's and ONNX Runtime's errors share no narrower base
        raise BundleError(f"the rebuilt model does not run ({first_line(error)}): {repair}") from error
    for i, rows in enumerate(together):
        if rows.ndim != 2 or not _agree(rows, np.concatenate([run[i] for run in alone])):
            raise BundleError(f"the rows of {names[i]} are not the same in batches of 1 and {len(images)}: {repair}")
    scores = together[0].astype(np.float64)
    if is_probability:
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        expected = np.exp(expected) if expected.max() <= 0 else expected  # LogSoftmax
    if not _agree(scores, expected):
        raise BundleError(f"the rebuilt model does not give the class scores of the original: {repair}")
    for output, rows in zip(model.graph.output, together, strict=True):
        output.type.tensor_type.shape.dim[1].dim_value = rows.shape[1]
    return shape_inference.infer_shapes(model)


def _agree(found: NDArray[np.floating], expected: NDArray[np.floating]) -> bool:
    return found.shape == expected.shape and np.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(np.abs(expected).max()))
