"""`POST /predict` over real HTTP, under the default profile."""

import base64
import re

import httpx
import pytest

from tests.pictures import jpeg, png, ship, smooth_noise, webp
from tests.server import RunningServer

pytestmark = pytest.mark.anyio


def ask(server: RunningServer, image: bytes, media_type: str = "image/jpeg") -> httpx.Response:
    return httpx.post(f"{server.url}/predict", content=image, headers={"content-type": media_type}, timeout=10)


def test_a_drawn_ship_is_a_ship(server: RunningServer) -> None:
    """The README's first query gets the right answer from a defended service."""
    answer = ask(server, jpeg(ship()))
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["label"] == "ship"


def test_the_answer_has_the_documented_shape(server: RunningServer) -> None:
    """id, model, predictions best first, created; three entries with two digits under balanced."""
    document = ask(server, jpeg(ship())).json()
    assert set(document) == {"id", "model", "predictions", "created"}
    assert re.fullmatch(r"[0-9a-f]{32}", document["id"])
    assert document["model"]["name"] == "cifar10"
    assert len(document["predictions"]) == 3
    scores = [entry["score"] for entry in document["predictions"]]
    assert scores == sorted(scores, reverse=True)
    assert all(round(score, 2) == score for score in scores)
    assert {"label", "class_id", "score"} == set(document["predictions"][0])


def test_all_forms_of_asking_get_the_same_answer(server: RunningServer) -> None:
    """Raw bytes, multipart, JSON and the Open Inference Protocol agree."""
    image = jpeg(ship(seed=1))
    text = base64.b64encode(image).decode()
    raw = ask(server, image)
    form = httpx.post(f"{server.url}/predict", files={"file": ("a picture.jpg", image, "image/jpeg")})
    json = httpx.post(f"{server.url}/predict", json={"image": {"b64": text}})
    predictions = raw.json()["predictions"]
    assert form.json()["predictions"] == json.json()["predictions"] == predictions
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}
    inferred = httpx.post(f"{server.url}/v2/models/cifar10/infer", json={"inputs": [tensor]}).json()
    outputs = {output["name"]: output["data"] for output in inferred["outputs"]}
    assert outputs["label"] == [entry["label"] for entry in predictions]
    assert outputs["class_id"] == [entry["class_id"] for entry in predictions]
    assert outputs["score"] == [entry["score"] for entry in predictions]


def test_the_same_pixels_in_other_lossless_files_get_the_same_answer(server: RunningServer) -> None:
    """The pixels are the query, not the file."""
    picture = ship(seed=2)
    assert ask(server, png(picture), "image/png").json()["predictions"] == ask(server, webp(picture), "image/webp").json()["predictions"]


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"", "image/jpeg", 400),
        (b"no image", "image/jpeg", 422),
        (b"II*\x00 a TIFF", "image/jpeg", 422),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"image": {"b64": 3}}', "application/json", 400),
        (b'{"image": {"b64": "?"}}', "application/json", 400),
        (b'{"image": {"url": "http://example.com/cat.jpg"}}', "application/json", 400),
        (b"no form", "multipart/form-data; boundary=x", 400),
        (b"no form", "multipart/form-data", 400),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b"x", "text/plain", 415),
    ],
)
def test_bad_input_is_a_problem_document(server: RunningServer, body: bytes, media_type: str, status: int) -> None:
    """Every error says what is wrong as problem+json, and names no defence."""
    answer = ask(server, body, media_type)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert set(document) == {"type", "title", "status", "detail"}
    assert not re.search("ood|distribution|duplicate|misrecogn|watermark|suspici", str(document).lower())


def test_no_route_and_no_method_are_problems_too(server: RunningServer) -> None:
    """404 and 405 look like every other error."""
    for answer, status in ((httpx.get(f"{server.url}/nothing"), 404), (httpx.get(f"{server.url}/predict"), 405)):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_foreign_image_is_counted_and_its_answer_looks_like_any_other(server: RunningServer) -> None:
    """Out-of-distribution queries move the metric; status, headers and shape tell nothing."""
    before = server.metric("cloneguard_ood_queries_total")
    foreign = [ask(server, jpeg(smooth_noise(seed=seed))) for seed in range(20)]
    known = ask(server, jpeg(ship(seed=3)))
    assert server.metric("cloneguard_ood_queries_total") - before >= 10
    for answer in foreign:
        assert answer.status_code == 200
        assert set(answer.headers) == set(known.headers)
        assert [set(entry) for entry in answer.json()["predictions"]] == [set(entry) for entry in known.json()["predictions"]]


def test_several_images_in_one_request_are_several_queries(server: RunningServer) -> None:
    """n images are n queries, answered in order."""
    before = server.metric("cloneguard_queries_total", outcome="answered")
    images = [jpeg(ship(seed=seed)) for seed in (4, 5, 6)]
    tensor = {"name": "image", "shape": [3], "datatype": "BYTES", "data": [base64.b64encode(image).decode() for image in images]}
    inferred = httpx.post(f"{server.url}/v2/models/cifar10/infer", json={"id": "mine", "inputs": [tensor]}).json()
    assert server.metric("cloneguard_queries_total", outcome="answered") - before == 3
    assert inferred["id"] == "mine"
    assert inferred["outputs"][0]["shape"] == [3, 3]
    single = [ask(server, image).json()["predictions"][0]["label"] for image in images]
    assert inferred["outputs"][0]["data"][::3] == single


def test_the_open_inference_metadata_fits_the_answers(server: RunningServer) -> None:
    """Name, version, tensors; an unknown model is 404."""
    model = httpx.get(f"{server.url}/v2/models/cifar10").json()
    assert [output["name"] for output in model["outputs"]] == ["label", "class_id", "score"]
    assert model["outputs"][0]["shape"] == [-1, 3]
    assert httpx.get(f"{server.url}/v2").json()["name"] == "cloneguard"
    assert httpx.get(f"{server.url}/v2/health/live").json() == {"live": True}
    assert httpx.get(f"{server.url}/v2/health/ready").json() == {"ready": True}
    assert httpx.get(f"{server.url}/v2/models/other").status_code == 404


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [{"name": "image", "shape": [2], "datatype": "BYTES", "data": ["aa=="]}],
        [{"name": "image", "shape": [1], "datatype": "FP32", "data": [1.0]}],
        [{"name": "image", "shape": [65], "datatype": "BYTES", "data": ["aa=="] * 65}],
    ],
)
def test_a_wrong_tensor_is_a_bad_request(server: RunningServer, inputs: list[dict[str, object]]) -> None:
    """Shapes, types and counts are checked before any image is decoded."""
    answer = httpx.post(f"{server.url}/v2/models/cifar10/infer", json={"inputs": inputs})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
