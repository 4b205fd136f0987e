"""The honest recognizer answers from an endpoint, a model file or a bundle, in the endpoint's numbering."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from attacker_client.evaluation import numbered
from attacker_client.references import UNKNOWN, EndpointReference, OnnxReference, UnusableReference
from attacker_client.transfer_set import Images, TransferSet

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.anyio


def colours(size: int) -> Images:
    """Five images of a red, green or blue channel brighter than the others."""
    images = np.full((5, size, size, 3), 40, np.uint8)
    for row in range(5):
        images[row, :, :, row % 3] = 200
    return images


def model(path: Path, *, layout: str, size: int | str = "size") -> Path:
    """An ONNX model whose logits are each channel's mean; a second output comes first unless it is asked for by name."""
    kind = onnx.TensorProto
    of = onnx.helper.make_tensor_value_info
    shape = ["n", size, size, 3] if layout == "NHWC" else ["n", 3, size, size]
    axes = onnx.numpy_helper.from_array(np.array([1, 2] if layout == "NHWC" else [2, 3], np.int64), "axes")
    nodes = [
        onnx.helper.make_node("Cast", ["pixels"], ["floats"], to=kind.FLOAT),
        onnx.helper.make_node("ReduceMean", ["floats", "axes"], ["logits"], keepdims=0),
        onnx.helper.make_node("Neg", ["logits"], ["opposite"]),
    ]
    graph = onnx.helper.make_graph(
        nodes, "toy", [of("pixels", kind.UINT8 if layout == "NHWC" else kind.FLOAT, shape)],
        [of("opposite", kind.FLOAT, ["n", 3]), of("logits", kind.FLOAT, ["n", 3])], [axes],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("size", ["size", 24])
async def test_model_file(tmp_path: Path, layout: str, size: int | str) -> None:
    """A model of bytes and one of floats give their best class, at their own size if they have one; the output is `logits`."""
    reference = OnnxReference(model(tmp_path / "toy.onnx", layout=layout, size=size))
    assert (await reference.labels(colours(16))).tolist() == [0, 1, 2, 0, 1]
    assert dict(reference.names) == {}


async def test_bundle(tmp_path: Path) -> None:
    """A bundle's directory tells the classes' names too."""
    model(tmp_path / "model.onnx", layout="NHWC", size=16)
    (tmp_path / "bundle.json").write_text(json.dumps({"labels": ["red", "green", "blue"], "models": {"fp32": "model.onnx"}}))
    reference = OnnxReference(tmp_path)
    assert (await reference.labels(colours(16)[:2])).tolist() == [0, 1]
    assert dict(reference.names) == {0: "red", 1: "green", 2: "blue"}


@pytest.mark.parametrize("content", [None, b"no model", b"{}"])
def test_what_is_no_reference(tmp_path: Path, content: bytes | None) -> None:
    """A missing file, one that is no model, and a directory without a bundle are told in words."""
    path = tmp_path / "toy.onnx"
    if content == b"{}":
        path.mkdir()
        (path / "bundle.json").write_bytes(content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UnusableReference, match=r"toy\.onnx"):
        OnnxReference(path)


def test_runtime_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ONNX Runtime the line that installs it is named."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnusableReference, match=r"pip install 'attacker-client\[onnx\]'"):
        OnnxReference(tmp_path)


class Told:
    """A buyer that answers two images and has no answer for the second."""

    left, identities = 9, 1

    async def buy(self, images: Images, *, identities: NDArray[np.int64] | None = None) -> TransferSet:  # noqa: ARG002 - the protocol's
        """Two rows."""
        scores = np.full((2, 4), np.nan, np.float32)
        return TransferSet(images[:2], np.array([3, 0]), scores, np.array([1, 0], np.float32))


async def test_endpoint() -> None:
    """An endpoint's missing answers are unknown, not class 0."""
    labels = await EndpointReference(Told(), {}).labels(colours(16)[:3])
    assert labels.tolist() == [3, UNKNOWN, UNKNOWN]


def test_numbered_by_name() -> None:
    """Names are matched whatever their case; one that the endpoint never told gets a number that no answer has."""
    numbers, known = numbered(["Dog", "cat", "emu", "dog"], {2: "dog", 5: "Cat"})
    assert numbers.tolist() == [2, 5, 6, 2]
    assert known == 2
