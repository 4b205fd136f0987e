"""Recognizers for clone detection: nothing is asked twice, endpoints are asked politely, and every dialect is understood."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.recognizers import Asked, Classes, RecognizerError, Told, alone_in
from app.recognizers.asked import Images
from app.recognizers.dialects import OpenInference
from app.recognizers.endpoint import Endpoint
from app.recognizers.images import images_to_ask
from app.recognizers.local import function_source
from models.folders import write_images
from models.manifest import BundleError
from tests.app.scripted import Scripted

NAMES = ("cat", "dog", "ship")


def pictures(count: int, *, size: int = 4, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


class Sources:
    """A source that notes what it was asked, and fails when it has given `lasts` answers."""

    def __init__(self, *, lasts: int = 1_000_000, scores: bool = True) -> None:
        self.asked: list[bytes] = []
        self._lasts, self._scores = lasts, scores

    def __call__(self, images: Images) -> Iterator[Told]:
        for image in images:
            if len(self.asked) == self._lasts:
                raise RecognizerError("gone")
            self.asked.append(image.tobytes())
            number = int(image[0, 0, 0]) % 3
            yield Told(NAMES[number], number, 0.25 + number / 4 if self._scores else None)


def test_what_was_asked_once_is_not_asked_again(tmp_path: Path) -> None:
    """Neither twice in a batch, nor by the run that goes on after a kill in the middle of a line."""
    images = pictures(10)
    ticks: list[None] = []
    kept = tmp_path / "answers.jsonl"
    with Asked(Sources(lasts=6), kept, classes=Classes()) as asked, pytest.raises(RecognizerError):
        asked(images)
    with kept.open("ab") as file:
        file.write(b'{"image": "cut o')
    source = Sources()
    with Asked(source, kept, classes=Classes(), on_answer=lambda: ticks.append(None)) as asked:
        answers = asked(np.concatenate([images, images]))
        assert asked.queries == 10
    assert source.asked == [image.tobytes() for image in images[6:]]
    assert len(ticks) == len(answers.labels) == 20
    expected = images[:, 0, 0, 0] % 3
    assert answers.confidences == pytest.approx(np.tile(0.25 + expected / 4, 2))
    assert len({(int(label), int(number)) for label, number in zip(answers.labels[:10], expected, strict=True)}) == len(set(expected))


@pytest.mark.parametrize(
    "damage", ["nonsense", "[]", "3", '{"image": "a"}', '{"image": "a", "label": "cat", "class_id": 0, "score": NaN}', "\xff"]
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    """By its file and its number, in one line; a whole one is never cut off."""
    kept = tmp_path / "answers.jsonl"
    with Asked(Sources(), kept, classes=Classes()) as asked:
        asked(pictures(2))
    with kept.open("ab") as file:
        file.write(damage.encode("latin-1") + b"\n")
    before = kept.read_bytes()
    with pytest.raises(RecognizerError, match=r"answers\.jsonl, line 3 is damaged") as caught:
        Asked(Sources(), kept, classes=Classes())
    assert "\n" not in str(caught.value)
    assert kept.read_bytes() == before


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """The second is told so; when the first has ended, however it did, the folder is free."""
    with alone_in(tmp_path / "out"), pytest.raises(RecognizerError, match="in use by another run"), alone_in(tmp_path / "out"):
        pass
    with pytest.raises(ValueError, match="it failed"), alone_in(tmp_path / "out"):
        raise ValueError("it failed")
    with alone_in(tmp_path / "out"):
        pass


def test_one_answer_without_a_score_leaves_labels_only(tmp_path: Path) -> None:
    with Asked(Sources(scores=False), tmp_path / "answers.jsonl", classes=Classes()) as asked:
        assert asked(pictures(3)).confidences is None


def test_classes_are_the_same_by_their_names_or_by_their_numbers(tmp_path: Path) -> None:
    """Two recognizers that number the same names differently agree by name, and two that name the same numbers differently by number."""
    images = pictures(30)

    def labels(names: tuple[str, ...], order: tuple[int, ...], classes: Classes) -> list[int]:
        def probabilities(batch: Images) -> Any:
            return np.eye(3)[[order[int(image[0, 0, 0]) % 3] for image in batch]]

        with Asked(function_source(probabilities, labels=names), tmp_path / f"{names}{id(classes)}", classes=classes) as asked:
            numbers: list[int] = asked(images).labels.tolist()
            return numbers

    by_name, by_number = Classes(), Classes(by_number=True)
    assert labels(NAMES, (0, 1, 2), by_name) == labels(("SHIP", "Cat ", "dog"), (1, 2, 0), by_name)
    assert labels(NAMES, (0, 1, 2), by_number) == labels(("Katze", "Hund", "Schiff"), (0, 1, 2), by_number)
    assert not set(labels(NAMES, (0, 1, 2), by_name)) & set(labels(("Katze", "Hund", "Schiff"), (0, 1, 2), by_name))


CAT = {"model": {"name": "pets"}, "predictions": [{"label": "cat", "class_id": 0, "score": 0.75}]}


def test_an_endpoint_is_asked_politely() -> None:
    """Retry-After is waited out, a failing server gets time, the rate is kept, and the key is sent."""
    waits: list[float] = []
    with Scripted((429, {"retry-after": "7"}, {}), (503, {}, {}), (200, {}, CAT), (200, {}, CAT)) as server:
        with Endpoint(server.url, rate=4, api_key="k", sleep=waits.append, monotonic=lambda: 0.0) as endpoint:
            assert list(endpoint(pictures(2))) == [Told("cat", 0, 0.75, "pets")] * 2
        assert {(path, key) for path, key, _ in server.requests} == {("/predict", "Bearer k")}
        assert server.requests[0][2].startswith(b"\x89PNG")
    assert 7 <= waits[0] < 7.5
    assert 0.25 in waits and 0.5 in waits  # of a clock that stands still: the second and the third request's turn


@pytest.mark.parametrize(
    ("response", "says"),
    [
        ((401, {}, {"title": "no key"}), "401"),
        ((429, {"retry-after": "86400"}, {}), "come back in 86400 s"),
        ((200, {}, {"predictions": []}), "nothing that we know"),
        ((200, {}, {"predictions": [{"label": "cat", "class_id": 0, "score": float("nan")}]}), "a score of nan"),
    ],
)
def test_an_endpoint_that_cant_be_asked_is_one_line(response: tuple[int, dict[str, str], Any], says: str) -> None:
    """At once: more requests would not help."""
    waits: list[float] = []
    with (
        Scripted(response) as server,
        Endpoint(f"{server.url}/predict", rate=1_000, sleep=waits.append) as endpoint,
        pytest.raises(RecognizerError, match=says) as caught,
    ):
        list(endpoint(pictures(1)))
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("document", "name"), [(CAT, "pets"), (CAT | {"model": "other"}, ""), ({"predictions": CAT["predictions"]}, "")])
def test_what_a_recognizer_calls_itself_is_kept(tmp_path: Path, document: dict[str, Any], name: str) -> None:
    """With its answers, for the run that goes on; some do not say."""
    kept = tmp_path / "answers.jsonl"
    with Scripted((200, {}, document)) as server, Endpoint(server.url, rate=1_000) as endpoint:
        for _ in range(2):
            with Asked(endpoint, kept, classes=Classes()) as asked:
                asked(pictures(1))
                assert (asked.model, asked.queries) == (name, 1)


def test_what_is_no_address_is_said_before_anything_is_asked() -> None:
    with pytest.raises(RecognizerError, match="no http address"):
        Endpoint("http:///predict", rate=1)


@pytest.mark.parametrize(
    ("datatype", "shape", "sent"),
    [
        ("UINT8", [-1, 2, 3, 3], [1, 2, 3, 3]),
        ("FP32", [-1, 3, 2, 3], [1, 3, 2, 3]),
        ("FP32", [3, 4, 4], [3, 4, 4]),
        ("UINT8", [-1, -1, -1, 3], [1, 4, 4, 3]),
    ],
)
def test_tensors_of_pixels(datatype: str, shape: list[int], sent: list[int]) -> None:
    """As their metadata say; logits become a probability."""
    logits = {"model_name": "m", "outputs": [{"name": "out", "datatype": "FP32", "shape": [1, 3], "data": [0.0, 2.0, 1.0]}]}
    metadata = {"inputs": [{"name": "pixels", "datatype": datatype, "shape": shape}]}
    image = np.full((4, 4, 3), 51, np.uint8)
    image[..., 0] = 255
    with Scripted((200, {}, metadata), (200, {}, logits)) as server:
        with Endpoint(f"{server.url}/v2/models/m", rate=1_000) as endpoint:
            (told,) = endpoint(image[None])
        paths = [path for path, _, _ in server.requests]
        tensor = json.loads(server.requests[1][2])["inputs"][0]
    assert paths == ["/v2/models/m", "/v2/models/m/infer"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("pixels", datatype, sent)
    values = np.array(tensor["data"]).reshape(sent)
    red = values[:, 0] if sent[-3] == 3 and len(sent) == 4 else values[0] if sent[0] == 3 else values[..., 0]
    one = 255 if datatype == "UINT8" else 1.0
    assert (red == one).all()
    assert values.min() == pytest.approx(one / 5)
    assert (told.class_id, told.model) == (1, "m")
    assert told.score == pytest.approx(np.exp(2) / (1 + np.exp(2) + np.exp(1)))


def test_an_input_that_is_no_image_is_refused() -> None:
    for tensor in ({"name": "ids", "datatype": "INT64", "shape": [-1, 128]}, {"name": "x", "datatype": "FP32", "shape": [-1, 784]}):
        with pytest.raises(ValueError, match="an input of"):
            OpenInference.of({"inputs": [tensor]})


def test_images_are_drawn_from_a_folder_or_cut_from_photographs(tmp_path: Path) -> None:
    """The same seed draws the same ones; too few are an error."""
    write_images(tmp_path / "some", pictures(6, size=8))
    drawn = images_to_ask(str(tmp_path), count=5, size=8, seed=1)
    assert drawn.shape == (5, 8, 8, 3)
    assert (drawn == images_to_ask(str(tmp_path), count=5, size=8, seed=1)).all()
    with pytest.raises(BundleError, match="6 images, and 7 are needed"):
        images_to_ask(str(tmp_path), count=7, size=8, seed=1)
    built_in = images_to_ask("builtin", count=40, size=16, seed=0)
    assert built_in.shape == (40, 16, 16, 3)
    assert len(np.unique(built_in.reshape(40, -1), axis=0)) == 40
    assert (built_in == images_to_ask("builtin", count=40, size=16, seed=0)).all()
