"""The networks that a thief trains: one interface for all architectures."""

import copy
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacker_client.architectures import STUDENTS, Plan
from attacker_client.transfer_set import Images

SMALLEST = 16  # pixels a side
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which pretrained weights expect


class StudentError(Exception):
    """A student can't be made or trained: unknown, no weights to download, or nothing to learn from."""


class Student(nn.Module):
    """A body that turns images into vectors, and a linear layer that turns these into one number a class."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, body: nn.Module, width: int, plan: Plan, *, classes: int) -> None:
        super().__init__()
        self.name, self.classes, self.size, self.pretrained = name, classes, plan.size, plan.pretrained
        self.body = body
        self.dropout = nn.Dropout(0.0)
        self.classifier = nn.Linear(width, classes)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def embed(self, pixels: Tensor) -> Tensor:
        """What the classifier sees (n, d), for pixels (n, 3, S, S) in 0..1."""
        vectors: Tensor = self.body((pixels - self.mean) / self.std)
        return vectors

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, classes) for pixels (n, 3, S, S) in 0..1."""
        logits: Tensor = self.classifier(self.dropout(self.embed(pixels)))
        return logits

    def probabilities(self, images: Images) -> NDArray[np.float32]:
        """What it answers (n, classes), each row summing to 1."""
        return self._in_batches(images, lambda vectors: self.classifier(vectors).softmax(dim=1), width=self.classes)

    def embeddings(self, images: Images) -> NDArray[np.float32]:
        """Its penultimate features (n, d)."""
        return self._in_batches(images, lambda vectors: vectors, width=self.classifier.in_features)

    def widened(self, classes: int) -> "Student":
        """A copy with more classes, the old weights kept.

        A new class starts as the mean of the old ones, which is never above their best: every old answer stays what it was.
        """
        assert classes >= self.classes, (classes, self.classes)
        wider = copy.deepcopy(self)
        new, old = nn.Linear(self.classifier.in_features, classes), self.classifier
        with torch.no_grad():
            for into, known in ((new.weight, old.weight), (new.bias, old.bias)):
                into[: self.classes] = known
                into[self.classes :] = known.mean(dim=0)
        wider.classifier, wider.classes = new.to(old.weight.device), classes
        return wider

    def _in_batches(self, images: Images, of: Callable[[Tensor], Tensor], *, width: int, batch: int = 256) -> NDArray[np.float32]:
        device, training = self.classifier.weight.device, self.training
        self.eval()
        found = np.zeros((len(images), width), np.float32)
        with torch.inference_mode():
            for i in range(0, len(images), batch):
                pixels = batched_tensor(images[i : i + batch]).to(device).contiguous(memory_format=torch.channels_last)
                with mixed_precision(device):
                    vectors = self.embed(pixels)
                found[i : i + batch] = of(vectors.float()).cpu().numpy()
        self.train(training)
        return found


def build(name: str, *, classes: int, size: int, seed: int, pretrained: bool = False, download: bool = True) -> Student:
    """Make an untrained student, or one with ImageNet's weights in its body; the same seed gives the same weights.

    A `pretrained` one without `download` has the shape alone, for weights that come from a file.
    Raises StudentError for a name that is not in the table, for images below 16 pixels, and where no weights can be had.
    """
    assert classes >= 1, classes
    if name not in STUDENTS:
        raise StudentError(f"no student {name!r}; there are {', '.join(STUDENTS)}")
    if size < SMALLEST:
        raise StudentError(f"students take images of at least {SMALLEST} pixels a side, not {size}")
    if pretrained and not STUDENTS[name].pretrained:
        raise StudentError(
            f"there are no pretrained weights for {name}, only for {', '.join(n for n, a in STUDENTS.items() if a.pretrained)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            body, width = STUDENTS[name].body(Plan(size, pretrained, download))
        except (URLError, OSError, RuntimeError) as error:
            if not (pretrained and download):
                raise
            raise StudentError(
                f"can't get the pretrained weights of {name}: {error}; train from scratch or provide a connection"
            ) from error
        return Student(name, body, width, Plan(size, pretrained, download), classes=classes)


def save(student: Student, path: Path) -> None:
    """Write a student to a file that `load` reads; an interrupted save leaves no half file."""
    about = {"name": student.name, "classes": student.classes, "size": student.size, "pretrained": student.pretrained}
    partial = path.with_name(path.name + ".partial")
    torch.save({**about, "weights": student.state_dict()}, partial)
    partial.replace(path)


def load(path: Path) -> Student:
    """Read a student that `save` wrote, in evaluation mode on the CPU."""
    about = torch.load(path, weights_only=True, map_location="cpu")
    weights = about.pop("weights")
    student = build(**about, seed=0, download=False)
    student.load_state_dict(weights)
    return student.eval()


def batched_tensor(images: Images) -> Tensor:
    """uint8 images (n, S, S, 3) as a network takes them: float32 (n, 3, S, S) in 0..1."""
    assert images.dtype == np.uint8 and images.ndim == 4, (images.dtype, images.shape)
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def mixed_precision(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where the device has instructions for it, else in float32: what emulates it is many times slower.

    These are AMX or AVX512_BF16 on CPUs, and compute capability 8.0 (Ampere) on GPUs.
    """
    if device.type == "cuda":
        can = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        can = onednn and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=can)
