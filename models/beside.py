"""A feature backbone beside a classifier: one graph, in which both see the same images."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper
from onnx.utils import Extractor

from models.graph import PROOF_IMAGES, prove
from models.manifest import BundleError
from models.onnx_file import at_least_opset, first_line, open_session

CLASSIFIER, BACKBONE = "classifier/", "backbone/"
ANTIALIAS_OPSET = 18  # the first whose Resize can average what it shrinks


def branch(backbone: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """A graph from a bundle's `images` uint8 (N, size, size, 3) to the backbone's `features` and `embedding`.

    The backbone takes float32 `pixels` (N, 3, side, side) in 0..255. Where the sides differ, images are resized linearly with
    antialiasing, as Pillow does it: without, a photograph shrunk to 32 pixels is mostly noise. Raises BundleError.
    """
    model = at_least_opset(backbone, ANTIALIAS_OPSET, "the backbone")
    side = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    del model.graph.value_info[:]  # its batch axis has another name
    nodes = [
        helper.make_node("Transpose", ["images"], ["turned"], "turn", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["turned"], ["pixels"], "to_float", to=TensorProto.FLOAT),
    ]
    weights = []
    if side != size:
        nodes[1].output[0] = "unscaled"
        resize = helper.make_node("Resize", ["unscaled", "", "", "sides"], ["pixels"], "resize", mode="linear", antialias=1, axes=[2, 3])
        nodes.append(resize)  # by default, half_pixel: the coordinates of Pillow
        weights.append(numpy_helper.from_array(np.array([side, side]), "sides"))
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, side, side])
    stem = helper.make_graph(nodes, "stem", [_images(size)], [pixels], weights)
    return _model(
        _joined(compose.add_prefix_graph(stem, "stem/", rename_inputs=False, rename_outputs=False), model.graph, ["pixels"]), [model]
    )


def merge(classifier: onnx.ModelProto, extra: onnx.ModelProto) -> onnx.ModelProto:
    """A bundle's graph with a backbone's `branch` beside it.

    `logits` are the classifier's, `features` its own followed by the backbone's, `embedding` the backbone's. The result was run: rows do
    not depend on the batch, and logits are those of the classifier alone. Raises BundleError.
    """
    assert not is_merged(classifier)
    size = classifier.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    images = np.random.default_rng(0).integers(0, 256, (PROOF_IMAGES, size, size, 3), dtype=np.uint8)
    expected = open_session(classifier).run(["logits"], {"images": images})[0]
    opset = max(_opsets(classifier)[""], _opsets(extra)[""])
    parts = []
    for part, prefix in ((classifier, CLASSIFIER), (extra, BACKBONE)):
        prefixed = compose.add_prefix(at_least_opset(part, opset, f"the {prefix[:-1]}"), prefix)
        del prefixed.graph.value_info[:]
        parts.append(prefixed)
    inputs = [CLASSIFIER + "images", BACKBONE + "images"]
    fan = helper.make_graph(
        [helper.make_node("Identity", ["images"], [name], f"to_{name}") for name in inputs],
        "fan",
        [_images(size)],
        [helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", size, size, 3]) for name in inputs],
    )
    seen = [CLASSIFIER + "features", BACKBONE + "features"]
    ends = helper.make_graph(
        [
            helper.make_node("Identity", [CLASSIFIER + "logits"], ["logits"], "logits"),
            helper.make_node("Concat", seen, ["features"], "features", axis=1),
            helper.make_node("Identity", [BACKBONE + "embedding"], ["embedding"], "embedding"),
        ],
        "ends",
        _vectors([CLASSIFIER + "logits", *seen, BACKBONE + "embedding"]),
        _vectors(["logits", "features", "embedding"]),
    )
    graph = _joined(fan, parts[0].graph, inputs[:1])
    graph = _joined(graph, parts[1].graph, inputs[1:])
    graph = _joined(graph, ends, [value.name for value in ends.input], outputs=["logits", "features", "embedding"])
    repair = "export the backbone in evaluation mode and with a dynamic batch axis"
    return prove(_model(graph, parts), images, expected, is_probability=False, repair=repair)


def is_merged(model: onnx.ModelProto) -> bool:
    """Whether a bundle's graph has a backbone beside its classifier."""
    return any(CLASSIFIER + "images" in node.output for node in model.graph.node)


def without_backbone(model: onnx.ModelProto) -> onnx.ModelProto:
    """The classifier's part of a merged graph: `images` to `logits` and `features`, to put another backbone beside it.

    The classifier's own embedding is not there any more: nothing needed it beside the backbone's.
    """
    assert is_merged(model)
    size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    outputs = [CLASSIFIER + "logits", CLASSIFIER + "features"]
    classifier = onnx.ModelProto()
    classifier.CopyFrom(model)
    del classifier.graph.value_info[:]
    images = _images(size)
    images.name = CLASSIFIER + "images"
    classifier.graph.value_info.extend([images, *_vectors(outputs)])
    classifier = Extractor(classifier).extract_model([CLASSIFIER + "images"], outputs)
    graph = classifier.graph
    for tensor in (*graph.initializer, *graph.input, *graph.output, *graph.node):
        tensor.name = tensor.name.removeprefix(CLASSIFIER)
    del graph.value_info[:]
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [name.removeprefix(CLASSIFIER) for name in names]
    return classifier


def _joined(first: onnx.GraphProto, second: onnx.GraphProto, names: Sequence[str], *, outputs: list[str] | None = None) -> onnx.GraphProto:
    """Two graphs joined at tensors that have the same names in both. Raises BundleError."""
    try:
        return compose.merge_graphs(first, second, [(name, name) for name in names], outputs=outputs)
    except ValueError as error:
        raise BundleError(f"the backbone cannot be put beside the classifier ({first_line(error)}): please report this model") from error


def _model(graph: onnx.GraphProto, parts: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """A model with the operator sets that the parts really use: ONNX Runtime's tools declare every one they know."""
    used = {node.domain for node in graph.node} | {""}
    versions = {domain: version for part in parts for domain, version in _opsets(part).items() if domain in used}
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=max(part.ir_version for part in parts))


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}


def _vectors(names: Sequence[str]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None]) for name in names]


def _images(size: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])
