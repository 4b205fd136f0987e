"""A pool gives the same pixels for the same row, keeps some images for measuring, and says what it can't read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attacker_client.images import ImagesError, choose, folder_pool, labelled_images, torchvision_pool
from attacker_client.photographs import BUYING, EVALUATION, PhotographPool, builtin_pools


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three class folders of ten images, each image of one colour, of different sizes and formats."""
    for place, (name, suffix) in enumerate([("ant", "png"), ("bee", "jpg"), ("cow", "webp")]):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for row in range(10):
            pixels = np.full((20 + row, 30, 3), (80 * place, 20 * row, 100), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "tree" / name / f"{row}.{suffix}")
    return tmp_path / "tree"


def test_folder_tree(tree: Path) -> None:
    """Images come in the paths' order at the size asked for, and the folders are the classes."""
    pool = folder_pool(tree, 16)
    images = pool[np.array([0, 29, 5])]
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8 and len(pool) == 30
    assert np.abs(images[:, 8, 8].astype(int) - [[0, 0, 100], [160, 180, 100], [0, 100, 100]]).max() < 6
    assert pool.classes is not None
    assert pool.classes.tolist() == [0] * 10 + [1] * 10 + [2] * 10


def test_one_folder_has_no_classes(tree: Path) -> None:
    """A folder of images alone says nothing about what they show."""
    assert folder_pool(tree / "ant", 16).classes is None


def test_broken_files_are_left_out(tree: Path) -> None:
    """A file that is no image, and one that ends early, are named once, and the next image is shown in their place, again and again."""
    (tree / "ant" / "0.png").write_bytes(b"no image")
    whole = (tree / "ant" / "1.png").read_bytes()
    (tree / "ant" / "1.png").write_bytes(whole[: len(whole) // 2])
    pool = folder_pool(tree, 16)
    assert (pool[np.array([0, 1, 0])] == pool[np.array([2, 2, 2])]).all()
    assert [Path(name).name for name in pool.skipped] == ["0.png", "1.png"]


def test_what_is_held_out_does_not_hang_on_what_can_be_read(tree: Path) -> None:
    """A broken file changes its own row only, is counted, and never shows one of the images that are measured with."""
    whole = choose(str(tree), size=16, seed=3)
    held_out = {image.tobytes() for image in whole.evaluation[np.arange(3)]}
    before = whole.buying[np.arange(27)]
    broken = [file for file in sorted(tree.rglob("*.*")) if file.suffix != ".webp"]
    for file in broken:
        file.write_bytes(b"no image")
    pools = choose(str(tree), size=16, seed=3)
    after = pools.buying[np.arange(27)]
    assert not held_out & {image.tobytes() for image in after}
    assert {image.tobytes() for image in after} < {image.tobytes() for image in before}
    assert 17 <= len(pools.skipped) <= 20 and set(pools.skipped) <= {str(file) for file in broken}


def test_no_image_can_be_read(tmp_path: Path) -> None:
    """A folder of broken files only is an error, not an endless search."""
    for row in range(3):
        (tmp_path / f"{row}.png").write_bytes(b"no image")
    with pytest.raises(ImagesError, match="none of the 3"):
        folder_pool(tmp_path, 16)[np.array([1])]


@pytest.mark.parametrize("spec", ["nowhere", "empty", "torchvision:Nothing", "torchvision:CIFAR10"])
def test_no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    """A folder that is missing or empty, an unknown set and one that can't be downloaded are told in words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for proxy in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nobody listens there: no download, with a network or without
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImagesError, match=spec.rpartition(":")[2]):
        choose(spec, size=16, seed=0)


def test_torchvision() -> None:
    """A set of torchvision's is read at the size asked for, with its classes."""
    pool = torchvision_pool("FakeData", 16)
    assert pool[np.arange(4)].shape == (4, 16, 16, 3)
    assert len(pool) == 1000


def test_held_out_images_are_never_bought(tree: Path) -> None:
    """A tenth is kept for measuring, the same for the same seed, and none of it can be bought."""
    pools, again, other = (choose(str(tree), size=16, seed=seed) for seed in (1, 1, 2))
    assert (len(pools.buying), len(pools.evaluation)) == (27, 3)
    bought = {image.tobytes() for image in pools.buying[np.arange(27)]}
    kept = {image.tobytes() for image in pools.evaluation[np.arange(3)]}
    assert len(bought | kept) == 30
    assert kept == {image.tobytes() for image in again.evaluation[np.arange(3)]}
    assert kept != {image.tobytes() for image in other.evaluation[np.arange(3)]}


def test_one_image_is_too_few(tree: Path) -> None:
    """There must be one to buy and one to measure on."""
    for file in [*(tree / "ant").iterdir()][1:]:
        file.unlink()
    with pytest.raises(ImagesError, match="too few"):
        choose(str(tree / "ant"), size=16, seed=0)


def test_labelled_images(tree: Path) -> None:
    """Test images come with their folder's name, and a broken one is left out and named."""
    (tree / "bee" / "3.jpg").write_bytes(b"no image")
    images, names, skipped = labelled_images(tree, 16)
    assert images.shape == (29, 16, 16, 3)
    assert [Path(name).name for name in skipped] == ["3.jpg"]
    assert [names.count(name) for name in ("ant", "bee", "cow")] == [10, 9, 10]


def test_transparency_is_white(tmp_path: Path) -> None:
    """What lies hidden under transparent pixels is not shown."""
    Image.new("RGBA", (20, 20), (200, 0, 0, 0)).save(tmp_path / "a.png")
    assert (folder_pool(tmp_path, 16)[np.array([0])] == 255).all()


def test_builtin_rows_are_functions_of_seed_and_row() -> None:
    """A row's pixels don't depend on what was read before, and another seed gives other crops."""
    first, _ = builtin_pools(16, seed=3)
    second, _ = builtin_pools(16, seed=3)
    backwards = second[np.arange(40)[::-1]]
    assert (first[np.arange(40)] == backwards[::-1]).all()
    assert not (first[np.arange(40)] == PhotographPool(BUYING, 16, seed=4)[np.arange(40)]).all()


def test_builtin_is_long_and_varied() -> None:
    """Hundreds of crops are all different, and the last row can be read."""
    pool, _ = builtin_pools(32, seed=0)
    crops = pool[np.arange(500)]
    assert len({crop.tobytes() for crop in crops}) == 500
    assert len(pool) >= 200_000
    assert pool[np.array([len(pool) - 1])].shape == (1, 32, 32, 3)
    assert crops.std() > 50


def test_builtin_measures_on_other_photographs() -> None:
    """No photograph serves both to buy and to measure."""
    buying, evaluation = builtin_pools(16, seed=0)
    assert not set(BUYING) & set(EVALUATION)
    assert buying.classes is not None and evaluation.classes is not None
    assert (buying.classes.max() + 1, evaluation.classes.max() + 1) == (len(BUYING), len(EVALUATION))
