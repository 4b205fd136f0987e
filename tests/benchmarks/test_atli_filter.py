"""The filter's table: its arithmetic, its sets, ODIN's network, and a whole run on pictures that we draw."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from rich.console import Console

from benchmarks.seeds import atli_tables
from benchmarks.seeds.atli_filter import CODECS, FILTERS, measure
from benchmarks.seeds.atli_sets import CROPS, OVERLAP, UNSEEN, WITH, WITHOUT, Sets, Sizes, load
from benchmarks.seeds.filter_metrics import at_rate, equal_error, figures
from benchmarks.seeds.odin import Odin
from defenses.nonsense import nonsense
from models import bundle as bundles
from models.beside import branch, merge, without_backbone
from models.bundle import BUNDLED
from models.onnx_file import halve_weights
from models.tiny_imagenet import KNOWN, unseen_classes
from tests.pictures import jpeg, ship, smooth_noise

MODEL = BUNDLED / "cifar10" / "model.onnx"
SIZE = 32


def ships(seeds: range) -> NDArray[np.uint8]:
    """Drawn ships: what the bundled recognizer was made for, as far as we can draw it."""
    return np.stack([np.asarray(ship(seed=seed, size=SIZE)) for seed in seeds])


def blobs(seeds: range) -> NDArray[np.uint8]:
    """Soft blobs of colour, which show nothing."""
    return np.stack([np.asarray(smooth_noise(seed=seed, size=SIZE)) for seed in seeds])


def test_figures_of_known_distributions() -> None:
    """Two unit normals 2 apart: TPR = TNR = 84.1% half-way, AUROC 92.1%, and 63.9% found at 5% false positives."""
    random = np.random.default_rng(0)
    benign, foreign = random.normal(0, 1, 40_000), random.normal(2, 1, 40_000)
    found = figures(benign, foreign, filter_tnr=0.95, natural=1.0)
    assert found.tpr == pytest.approx(0.841, abs=0.01)
    assert found.tnr == pytest.approx(0.841, abs=0.01)
    assert found.equal_error == pytest.approx(0.841, abs=0.01)
    assert found.auroc == pytest.approx(0.921, abs=0.01)
    assert found.at_rates[0].tpr == pytest.approx(0.639, abs=0.02)
    assert found.at_filter_tnr.tpr == found.at_rates[0].tpr
    for at in found.at_rates:
        assert at.fpr == pytest.approx(at.asked_fpr, rel=0.3)


def test_a_scorer_without_a_threshold_of_its_own() -> None:
    """Rivals have no natural operating point, and the JSON says so by null."""
    page = figures(np.arange(50.0), np.arange(25.0, 75.0), filter_tnr=0.9, natural=None).to_json()
    assert (page["tpr"], page["tnr"]) == (None, None)
    assert 0.5 < page["equal_error"] < page["auroc"] < 1


def test_perfect_and_useless_scores() -> None:
    """Scores that separate have an equal-error rate of 1, and equal scores one of a half."""
    low, high = np.zeros(20), np.ones(20)
    assert (equal_error(low, high), equal_error(low, low)) == (1, 0.5)
    assert at_rate(low, high, 0.05).tpr == 1
    assert at_rate(low, low, 0.05).tpr == 0


@pytest.fixture(scope="module")
def odin() -> Odin:
    """ODIN on the bundled recognizer."""
    return Odin(MODEL, size=SIZE)


def test_odin_asks_the_recognizer_itself(odin: Odin) -> None:
    """The torch network gives the logits that ONNX Runtime gives."""
    images = np.concatenate([ships(range(6)), blobs(range(6))])
    expected = bundles.load("cifar10", device="cpu", precision="fp32").infer(images).logits
    np.testing.assert_allclose(odin.logits(images), expected, atol=1e-3)


def test_odin_leaves_the_backbone_out(odin: Odin, tmp_path: Path) -> None:
    """Of a graph with a backbone beside the classifier, and weights in float16, ODIN has the classifier, to the weights' rounding."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["averaged"]),
        helper.make_node("Flatten", ["averaged"], ["features"]),
        helper.make_node("Identity", ["features"], ["embedding"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("features", "embedding")]
    graph = helper.make_graph(nodes, "colours", [pixels], outputs)
    colours = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    merged = merge(without_backbone(onnx.load(MODEL)), branch(colours, SIZE))
    halve_weights(merged)
    onnx.save(merged, tmp_path / "merged.onnx")
    images = ships(range(4))
    np.testing.assert_allclose(Odin(tmp_path / "merged.onnx", size=SIZE).logits(images), odin.logits(images), atol=2e-2)


def test_odin_step_makes_the_recognizer_surer(odin: Odin) -> None:
    """Without a step the score is 1 - max softmax(f(x) / T); the step lowers every score."""
    images = ships(range(8))
    still = Odin(MODEL, size=SIZE, epsilon=0)(images, batch=3)
    logits = odin.logits(images).astype(np.float64) / odin.temperature
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(still, 1 - softmax.max(axis=1), rtol=1e-6)
    assert (odin(images) < still).all()


def write_data(folder: Path) -> None:
    """A data folder in small: every image is another one."""
    numbers = iter(range(100_000))
    tiny = sorted(KNOWN)[:2] + [f"n9{number:07d}" for number in range(44)]
    classes = {f"{name}/{split}": 20 for name in ("cifar10", "gtsrb") for split in ("train/one", "test/one")}
    classes |= {f"tiny-imagenet-32/train/{name}": 2 for name in tiny} | {"photos": 4}
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            # two of the four photographs show dogs
            file = f"{('n02110958', 'n09193705')[number // 2]}_{number}.jpg" if name == "photos" else f"{number}.jpg"
            size = 96 if name == "photos" else SIZE
            (folder / name / file).write_bytes(jpeg(smooth_noise(seed=next(numbers), size=size)))
    raw = folder / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(bytes(16) + random.integers(0, 256, 20 * 28 * 28, dtype=np.uint8).tobytes())


def test_nothing_is_learned_that_is_asked_about(tmp_path: Path) -> None:
    """Training images and query images share none, in either filter; photographs that CIFAR-10 knows are left out for it alone."""
    write_data(tmp_path)
    sizes = Sizes(learned=8, queries=4)
    own = {name: load(name, tmp_path, sizes, np.random.default_rng(0), size=SIZE) for name in ("cifar10", "gtsrb")}
    for sets in own.values():
        learned = {image.tobytes() for pixels in (sets.inside, *sets.outside.values()) for image in pixels}
        asked = [image.tobytes() for pixels in (sets.benign, *sets.queries.values()) for image in pixels]
        assert len(set(asked)) == len(asked)
        assert not learned & set(asked)
        assert len(sets.benign) == 20
        assert len(sets.queries[UNSEEN]) == sizes.queries
    assert len(own["cifar10"].queries[OVERLAP]) == sizes.queries and OVERLAP not in own["gtsrb"].queries
    assert len(own["cifar10"].queries["crops of photographs"]) == CROPS
    assert len(own["gtsrb"].queries["crops of photographs"]) == 2 * CROPS


def test_unseen_queries_are_of_unseen_classes(tmp_path: Path) -> None:
    """The filter's foreign images come from classes that are neither CIFAR-10's nor unseen."""
    write_data(tmp_path)
    tiny = tmp_path / "tiny-imagenet-32" / "train"
    names = [path.name for path in tiny.iterdir()]
    for name in set(names) - KNOWN - set(unseen_classes(names)):
        for path in (tiny / name).iterdir():
            path.write_bytes(jpeg(smooth_noise(seed=0, cells=1)))  # of one colour, as no other image is
    sets = load("cifar10", tmp_path, Sizes(learned=8, queries=4), np.random.default_rng(0), size=SIZE)
    assert (sets.outside[WITH].std(axis=(1, 2)) < 2).all()
    assert (sets.queries[UNSEEN].std(axis=(1, 2)) > 2).all()


def test_a_whole_run(tmp_path: Path) -> None:
    """Filter, rivals and ODIN are asked about every set; blobs are foreign, drawn ships are not, and no codec changes that."""
    sets = Sets(
        inside=ships(range(60)),
        benign=ships(range(100, 140)),
        outside={WITH: blobs(range(60)), WITHOUT: nonsense(60, SIZE, np.random.default_rng(0))},
        sources={WITH: "blobs", WITHOUT: "nonsense"},
        queries={UNSEEN: blobs(range(100, 140)), OVERLAP: ships(range(200, 220))},
    )
    page, curves = measure(bundles.load("cifar10", device="cpu"), sets, codec=20, seed=0)
    assert list(page["scorers"]) == [*FILTERS, "msp", "energy", "mahalanobis", "knn", "odin"] == list(curves)
    filtered = page["scorers"][WITH]
    assert filtered[UNSEEN]["tpr"] > 0.9
    assert filtered[UNSEEN]["tnr"] > 0.9
    assert filtered[OVERLAP]["tpr"] < 0.1
    assert page["scorers"]["odin"][UNSEEN]["tpr"] is None
    for shares in page["codec"][WITH].values():
        assert shares["benign"] < 0.1
        assert shares[UNSEEN] > 0.9
        assert shares["auroc"] > 0.95
    assert page["codec"][WITH]["PNG"] == page["codec"][WITH]["as the files are"]
    assert set(page["codec"][WITH]) == {"as the files are", *CODECS}
    console = Console(record=True, width=200)
    atli_tables.show({"cifar10": page}, console)
    assert "the paper: ImageNet" in console.export_text()
    atli_tables.plot({"cifar10": curves}).savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
