"""The int8 model answers like the fp32 one, and its heavy layers really run in int8."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from models.manifest import BundleError
from models.onnx_file import open_session
from models.quantize import fold_pooled_normalisation, quantize
from tests.models.conftest import pictures

OUTPUTS = ["logits", "features", "embedding"]


@pytest.fixture(scope="module")
def int8(wide_bundle_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained architecture's graph in int8, calibrated on images that the tests do not use."""
    path = tmp_path_factory.mktemp("int8") / "model.int8.onnx"
    onnx.save(quantize(onnx.load(wide_bundle_graph), [pictures(200, 32, seed=2)]), path)
    return path


def test_outputs_stay_close_and_keep_names_types_and_batch_axis(wide_bundle_graph: Path, int8: Path) -> None:
    """Mean errors are below a tenth of the spread even with random weights, and the signature is the fp32 model's."""
    plain, quantised = open_session(wide_bundle_graph), open_session(int8)
    for n in (1, 3, 50):
        images = pictures(50, 32, seed=3)[:n]
        for expected, found in zip(plain.run(OUTPUTS, {"images": images}), quantised.run(OUTPUTS, {"images": images}), strict=True):
            assert found.shape == expected.shape
            assert np.abs(found - expected).mean() < 0.1 * expected.std()
    for session in (plain, quantised):
        assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [("images", "tensor(uint8)", ["N", 32, 32, 3])]
        assert [(o.name, o.type, o.shape[0]) for o in session.get_outputs()] == [(name, "tensor(float)", "N") for name in OUTPUTS]


def test_no_convolution_stays_in_float(int8: Path, tmp_path: Path) -> None:
    """ONNX Runtime runs convolutions and poolings in int8 without converting between them; only the two ends are float."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(int8), options, providers=["CPUExecutionProvider"])
    ran = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert ran["QLinearConv"] == 7
    assert ran["Gemm"] == 1
    assert ran["QuantizeLinear"] == ran["DequantizeLinear"] == 1
    assert {"Conv", "FusedConv", "MaxPool", "BatchNormalization", "Relu"} & set(ran) == set()


def test_the_cut_of_the_batches_does_not_matter(wide_bundle_graph: Path, int8: Path) -> None:
    """The same images in other batches calibrate the same model."""
    images = pictures(200, 32, seed=2)
    again = quantize(onnx.load(wide_bundle_graph), (images[i : i + 7] for i in range(0, 200, 7)))
    one, other = (model.graph.initializer for model in (onnx.load(int8), again))
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(left), numpy_helper.to_array(right))


def test_folding_a_pooled_normalisation_changes_nothing(wide_bundle_graph: Path) -> None:
    """Conv, MaxPool, BatchNormalization, Relu and its folded form give the same features."""
    model = onnx.load(wide_bundle_graph)
    images = pictures(5, 32, seed=3)
    expected = open_session(model).run(OUTPUTS, {"images": images})
    assert fold_pooled_normalisation(model) == 3
    onnx.checker.check_model(model)
    for left, right in zip(open_session(model).run(OUTPUTS, {"images": images}), expected, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4)
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


def test_a_decreasing_normalisation_is_left_alone(wide_bundle_graph: Path) -> None:
    """With a negative scale the maximum would become a minimum, so such a layer stays as it is."""
    model = onnx.load(wide_bundle_graph)
    norm = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == norm.input[1])
    values = numpy_helper.to_array(scale).copy()
    values[0] = -1
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    images = pictures(5, 32, seed=3)
    expected = open_session(model).run(["logits"], {"images": images})[0]
    assert fold_pooled_normalisation(model) == 2
    np.testing.assert_allclose(open_session(model).run(["logits"], {"images": images})[0], expected, atol=1e-4)


def test_no_images_is_an_error(wide_bundle_graph: Path) -> None:
    """Nothing can be calibrated on nothing."""
    with pytest.raises(BundleError, match="cannot be quantised"):
        quantize(onnx.load(wide_bundle_graph), [])
