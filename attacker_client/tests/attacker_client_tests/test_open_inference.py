"""Endpoints of the Open Inference Protocol are discovered, asked and understood: ours and those of the usual image classifiers."""

import json
from base64 import b64decode
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from attacker_client import open_inference, wire
from attacker_client.errors import BadImage, Garbled, Refused
from attacker_client.oracle import Oracle

from .conftest import Handler, Naps, Request, Response, problem

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], str]


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


class Endpoint:
    """A small server of the protocol: one model `m`, whose input and outputs are as given."""

    def __init__(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._inputs = inputs
        self._outputs = outputs

    async def __call__(self, request: Request) -> Response:
        if request.path == "/v2/models/m":
            return Response({"name": "m", "versions": ["7"], "platform": "toy", "inputs": self._inputs, "outputs": []})
        if request.path != "/v2/models/m/infer":
            return problem(404, "Not found")
        assert request.headers["content-type"] == "application/json"
        self.asked.append(json.loads(request.body)["inputs"][0])
        return Response({"model_name": "m", "model_version": "7", "id": "q", "outputs": self._outputs})


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


FILES = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
TOLD = [tensor("label", "BYTES", [1, 2], ["cat", "dog"]), tensor("class_id", "INT64", [1, 2], [3, 5])]
SCORES = [tensor("probabilities", "FP32", [1, 3], [0.25, 0.5, 0.25])]


@pytest.mark.parametrize("path", ["/v2/models/m", "/v2/models/m/", "/v2/models/m/infer"])
async def test_image_files(serve: Serve, path: str) -> None:
    """A BYTES input gets the file in base64, and tensors of labels, ids and scores are read best first."""
    endpoint = Endpoint(FILES, [*TOLD, tensor("score", "FP64", [1, 2], [0.75, 0.25])])
    async with Oracle(serve(endpoint) + path) as oracle:
        got = await oracle.ask(png(PIXELS))
    assert (got.label, got.class_id, got.scores, got.model, got.id) == ("cat", 3, (0.75, 0.25), "m 7", "q")
    (sent,) = endpoint.asked
    assert (sent["name"], sent["datatype"], sent["shape"]) == ("image", "BYTES", [1])
    assert [b64decode(text) for text in sent["data"]] == [png(PIXELS)]


async def test_labels_only(serve: Serve) -> None:
    """Without a tensor of scores there are none."""
    async with Oracle(serve(Endpoint(FILES, TOLD)) + "/v2/models/m") as oracle:
        got = await oracle.ask(png(PIXELS))
    assert (got.label, got.class_id, got.scores) == ("cat", 3, None)


@pytest.mark.parametrize(
    ("datatype", "shape", "sent_shape", "scale"),
    [
        ("UINT8", [-1, 3, 4, 6], [1, 3, 4, 6], 1),
        ("UINT8", [-1, 4, 6, 3], [1, 4, 6, 3], 1),
        ("FP32", [-1, 3, -1, -1], [1, 3, 4, 6], 255),
        ("FP32", [1, -1, -1, 3], [1, 4, 6, 3], 255),
        ("FP32", [3, 4, 6], [3, 4, 6], 255),
    ],
)
async def test_pixels(serve: Serve, datatype: str, shape: list[int], sent_shape: list[int], scale: int) -> None:
    """A numeric input gets the pixels in its own order and scale."""
    endpoint = Endpoint([{"name": "x", "datatype": datatype, "shape": shape}], SCORES)
    async with Oracle(serve(endpoint) + "/v2/models/m") as oracle:
        got = await oracle.ask(png(PIXELS))
    assert [(entry.label, entry.class_id, entry.score) for entry in got.entries] == [("1", 1, 0.5), ("0", 0, 0.25), ("2", 2, 0.25)]
    (sent,) = endpoint.asked
    assert (sent["name"], sent["datatype"], sent["shape"]) == ("x", datatype, sent_shape)
    pixels = np.array(sent["data"]).reshape(sent_shape)
    channels_last = pixels if sent_shape[-1] == 3 else np.moveaxis(pixels, -3, -1)
    assert np.allclose(channels_last.reshape(PIXELS.shape) * scale, PIXELS, atol=1e-4)


async def test_fixed_size(serve: Serve) -> None:
    """An image of another size is resized to the recognizer's."""
    endpoint = Endpoint([{"name": "x", "datatype": "UINT8", "shape": [-1, 3, 2, 8]}], SCORES)
    async with Oracle(serve(endpoint) + "/v2/models/m") as oracle:
        await oracle.ask(png(np.full((5, 5, 3), 77, np.uint8)))
        with pytest.raises(BadImage):
            await oracle.ask(b"no image")
    (sent,) = endpoint.asked
    assert (sent["shape"], set(sent["data"]), len(sent["data"])) == ([1, 3, 2, 8], {77}, 48)
    assert oracle.queries_sent == 1


def test_logits_become_probabilities() -> None:
    """A row that is no distribution goes through a softmax; nested data is read as well."""
    document = {"model_name": "m", "outputs": [tensor("logits", "FP32", [1, 3], [[1.0, 3.0, -2.0]])]}
    got = open_inference.read_answer(json.dumps(document).encode())
    expected = np.exp([3.0, 1.0, -2.0]) / np.exp([3.0, 1.0, -2.0]).sum()
    assert [entry.class_id for entry in got.entries] == [1, 0, 2]
    assert np.allclose(got.scores or (), expected)


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [tensor("x", "FP32", [1, 0], [])],
        [tensor("x", "FP32", [1, 2], [0.5])],
        [tensor("x", "FP32", [2, 1], [0.5, 0.5])],
        [tensor("x", "FP32", [1, 2], ["a", "b"])],
        [tensor("x", "FP32", [1, 2], [float("nan"), 1])],
        [*TOLD, tensor("score", "FP64", [1, 1], [0.5])],
        [tensor("class_id", "INT64", [1, 2], [3, -1])],
        [tensor("class_id", "INT64", [1, 2], [3, 100_000])],
        [*SCORES, tensor("more", "FP32", [1, 1], [0.5])],
        ["x"],
        7,
    ],
)
def test_what_is_no_answer(outputs: object) -> None:
    """Outputs that can't be read are a ValueError, whatever is wrong with them."""
    with pytest.raises(ValueError, match="not an answer"):
        open_inference.read_answer(json.dumps({"model_name": "m", "outputs": outputs}).encode())


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        FILES * 2,
        [{"name": "x", "datatype": "INT64", "shape": [-1, 5]}],
        [{"name": "x", "datatype": "FP32", "shape": [-1, 784]}],
        [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 28, 28]}],
        [{"name": "x"}],
    ],
)
async def test_unknown_inputs(serve: Serve, inputs: list[dict[str, Any]]) -> None:
    """A model whose input is no image as we know it is said to be so, before anything is bought."""
    with pytest.raises(Garbled, match="takes no images"):
        await open_inference.discover(serve(Endpoint(inputs, SCORES)) + "/v2/models/m")


async def test_discovery_errors(serve: Serve) -> None:
    """A missing model and a closed door are told apart."""
    with pytest.raises(Garbled, match="404"):
        await open_inference.discover(serve(Endpoint(FILES, SCORES)) + "/v2/models/other")

    async def closed(request: Request) -> Response:  # noqa: ARG001 - a handler's signature
        return problem(401, "Key needed")

    with pytest.raises(Refused):
        await open_inference.discover(serve(closed) + "/v2/models/m")


async def test_discovery_waits_as_long_as_it_is_told(serve: Serve) -> None:
    """A limit or a proxy in trouble is waited out before the campaign begins; what is denied is not asked again."""
    endpoint, naps = Endpoint(FILES, TOLD), Naps()
    troubles = [problem(429, "Slow down", retry_after="7"), problem(503, "Busy")]

    async def limited(request: Request) -> Response:
        return troubles.pop(0) if troubles else await endpoint(request)

    async with Oracle(serve(limited) + "/v2/models/m", sleep=naps) as oracle:
        assert (await oracle.ask(png(PIXELS))).label == "cat"
    assert len(naps.seconds) == 2
    assert naps.seconds[0] >= 7

    async def closed(request: Request) -> Response:  # noqa: ARG001 - a handler's signature
        return problem(403, "Suspended")

    naps = Naps()
    with pytest.raises(Refused):
        await Oracle(serve(closed) + "/v2/models/m", sleep=naps).__aenter__()
    assert not naps.seconds


async def test_one_discovery_serves_many(serve: Serve) -> None:
    """A dialect that was found out is given to any number of oracles."""
    url = serve(Endpoint(FILES, TOLD)) + "/v2/models/m"
    dialect = await open_inference.discover(url)
    for _ in range(2):
        async with Oracle(url, dialect=dialect) as oracle:
            assert (await oracle.ask(png(PIXELS))).label == "cat"


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://h:1", "http://h:1/predict"),
        ("http://h:1/predict", "http://h:1/predict"),
        ("http://h:1/v2/models/m", "http://h:1/v2/models/m/infer"),
        ("http://h:1/a/v2/models/m/versions/2/infer", "http://h:1/a/v2/models/m/versions/2/infer"),
    ],
)
async def test_addresses(url: str, endpoint: str) -> None:
    """An address tells the wire format; ours needs no discovery."""
    assert open_inference.endpoint_url(url) == endpoint
    assert open_inference.is_spoken_at(url) is ("/v2/" in url)
    if not open_inference.is_spoken_at(url):
        assert await open_inference.discover(url) == wire.Predict(endpoint)
