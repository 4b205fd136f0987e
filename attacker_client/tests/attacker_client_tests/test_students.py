"""The architectures behave alike: any size, any number of classes, the same for a seed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from attacker_client import students
from attacker_client.architectures import STUDENTS
from attacker_client.students import StudentError, batched_tensor, build, mixed_precision


def pictures(n: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [16, 28, 32, 64])
@pytest.mark.parametrize("name", STUDENTS)
def test_every_architecture_takes_images_of_any_size(name: str, size: int) -> None:
    """Distributions over the classes and vectors come out, finite, one row an image."""
    student = build(name, classes=7, size=size, seed=0)
    probabilities, embeddings = student.probabilities(pictures(2, size)), student.embeddings(pictures(2, size))
    assert probabilities.shape == (2, 7) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert embeddings.shape[0] == 2 and embeddings.ndim == 2 and np.isfinite(embeddings).all()


def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    """Two seeds differ, one seed repeats, and nobody else's random numbers change."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (build("small", classes=3, size=16, seed=seed).classifier.weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_widened_student_answers_as_before_and_knows_more_classes() -> None:
    """No old answer changes, whatever the new classes will be."""
    student = build("small", classes=3, size=16, seed=0)
    wider = student.widened(5)
    images = pictures(64, 16)
    assert wider.classes == 5 and wider.probabilities(images).shape == (64, 5) and student.classes == 3
    np.testing.assert_array_equal(wider.probabilities(images).argmax(axis=1), student.probabilities(images).argmax(axis=1))
    np.testing.assert_allclose(wider.embeddings(images), student.embeddings(images))


def test_asking_does_not_train() -> None:
    """Batch norm's running means stay, and a student in training goes on training."""
    student = build("small", classes=3, size=16, seed=0).train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    student.probabilities(pictures(8, 16))
    assert student.training
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_no_images_give_no_rows() -> None:
    """An empty question gets an empty answer of the right width."""
    student = build("small", classes=3, size=16, seed=0)
    assert student.probabilities(pictures(0, 16)).shape == (0, 3)


def test_a_saved_student_answers_the_same(tmp_path: Path) -> None:
    """Name, classes, size and weights come back."""
    student = build("resnet18", classes=3, size=20, seed=4)
    students.save(student, tmp_path / "student.pt")
    again = students.load(tmp_path / "student.pt")
    assert (again.name, again.classes, again.size) == ("resnet18", 3, 20)
    np.testing.assert_array_equal(again.probabilities(pictures(3, 20)), student.probabilities(pictures(3, 20)))


def test_the_pretrained_shape_comes_back_without_a_download(tmp_path: Path) -> None:
    """A file of a pretrained student holds its weights: ImageNet's are not needed, and small images are enlarged as in training."""
    student = build("resnet18", classes=3, size=32, seed=0, pretrained=True, download=False)
    students.save(student, tmp_path / "student.pt")
    again = students.load(tmp_path / "student.pt")
    assert again.pretrained and any(isinstance(layer, nn.Upsample) for layer in again.modules())
    np.testing.assert_array_equal(again.probabilities(pictures(2, 32)), student.probabilities(pictures(2, 32)))


def test_weights_that_cannot_be_had_are_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a connection the error says what was wanted and what to do instead."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for proxy in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nobody listens there
    for exception in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(exception, raising=False)
    with pytest.raises(StudentError, match=r"pretrained weights of resnet18.*from scratch"):
        build("resnet18", classes=3, size=32, seed=0, pretrained=True)


@pytest.mark.parametrize(
    ("name", "size", "pretrained", "says"),
    [
        ("alexnet", 32, False, "there are small, "),
        ("small", 8, False, "at least 16"),
        ("small", 32, True, "no pretrained weights for small"),
    ],
)
def test_what_cannot_be_built_is_said(name: str, size: int, *, pretrained: bool, says: str) -> None:
    """An unknown name, a tiny image and weights that don't exist are told apart."""
    with pytest.raises(StudentError, match=says):
        build(name, classes=3, size=size, seed=0, pretrained=pretrained)


def test_the_composite_student_is_the_papers() -> None:
    """Thirteen 3x3 convolutions of the paper's widths, two dense layers of 512, one to the classes, and no batch norm."""
    student = build("composite-vgg16", classes=10, size=32, seed=0)
    widths = [layer.out_channels for layer in student.modules() if isinstance(layer, nn.Conv2d)]
    dense = [layer.out_features for layer in student.modules() if isinstance(layer, nn.Linear)]
    assert widths == [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512] and dense == [512, 512, 10]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in student.modules())


def test_pixels_become_numbers_from_0_to_1() -> None:
    """Channels first, black 0, white 1."""
    images = np.zeros((1, 16, 16, 3), np.uint8)
    images[0, 2, 3, 1] = 255
    pixels = batched_tensor(images)
    assert pixels.shape == (1, 3, 16, 16) and pixels[0, 1, 2, 3] == 1 and pixels.sum() == 1


BFLOAT16_INSTRUCTIONS = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")


@pytest.mark.parametrize("instructions", [*BFLOAT16_INSTRUCTIONS, ""])
def test_bfloat16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, instructions: str) -> None:
    """Matrix products are in bfloat16 with AMX or AVX512_BF16, and in float32 on a processor that would emulate it."""
    for name in BFLOAT16_INSTRUCTIONS:
        monkeypatch.setattr(torch.cpu, name, lambda has=name == instructions: has)
    with mixed_precision(torch.device("cpu")):
        assert torch.nn.Linear(4, 4)(torch.ones(1, 4)).dtype == (torch.bfloat16 if instructions else torch.float32)


@pytest.mark.parametrize("compute_capability", [7.5, 8.0])
def test_bfloat16_where_the_gpu_has_it(monkeypatch: pytest.MonkeyPatch, compute_capability: float) -> None:
    """GPUs before Ampere would emulate it too."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: including_emulation or compute_capability >= 8)
    monkeypatch.setattr(torch, "autocast", lambda kind, *, dtype, enabled: (kind, dtype, enabled))
    chosen: object = mixed_precision(torch.device("cuda"))
    assert chosen == ("cuda", torch.bfloat16, compute_capability >= 8)
