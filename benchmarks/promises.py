"""Check the service's promises over real HTTP on real images: `CLONEGUARD_DATA=DIR python -m benchmarks.promises`.

Accuracy under `open` on all CIFAR-10 test images; the share of altered answers at a rate of 0.3, and how many copies recompressed at
quality 60 get their original's label; what `balanced` flags of test images and of Tiny-ImageNet classes that no filter saw.
"""

import asyncio
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.answers import media_type
from benchmarks.image_sets import tiny_imagenet_classes, tiny_imagenet_files
from benchmarks.recipe import recipe
from defenses.copies import TRANSFORMS, copies_by
from models.folders import image_files
from models.tiny_imagenet import unseen_classes
from tests.server import RunningServer

ALTERING = (
    "--profile", "open", "--set", "misrecognition.mode=enforce", "--set", "misrecognition.rate=0.3",
    "--set", "near_duplicates.mode=enforce",
)  # fmt: skip
CONNECTIONS = 32


async def top_labels(url: str, bodies: list[bytes]) -> list[str]:
    """The best label of each image, asked over a few connections."""
    gate = asyncio.Semaphore(CONNECTIONS)
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=CONNECTIONS), timeout=30) as client:

        async def ask(body: bytes) -> str:
            async with gate:
                answer = await client.post(f"{url}/predict", content=body, headers={"content-type": media_type(body)})
                return str(answer.raise_for_status().json()["predictions"][0]["label"])

        return list(await asyncio.gather(*(ask(body) for body in bodies)))


def labels(server: RunningServer, bodies: list[bytes]) -> list[str]:
    """Ask a running server."""
    return asyncio.run(top_labels(server.url, bodies))


def copies_of(bodies: list[bytes], transform: str, random: np.random.Generator) -> list[bytes]:
    """A near-duplicate of each image, in a lossless file: what was lost is in its pixels."""
    images = np.stack([np.asarray(Image.open(io.BytesIO(body)).convert("RGB")) for body in bodies])
    return [_png(image) for image in copies_by(transform, images, random)]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    """Run everything and write the JSON."""
    data = Path(os.environ["CLONEGUARD_DATA"])
    random = np.random.default_rng(0)
    test = image_files(data / "cifar10" / "test")
    foreign = tiny_imagenet_files(data, unseen_classes(tiny_imagenet_classes(data)))
    bodies = [path.read_bytes() for path in test]
    some = [bodies[i] for i in random.permutation(len(bodies))[:2000]]
    result: dict[str, Any] = recipe() | {"command": "python -m benchmarks.promises", "seed": 0}
    with tempfile.TemporaryDirectory() as folder:
        with RunningServer(Path(folder) / "open", "--profile", "open") as server:
            found = labels(server, bodies)
            result["open_top1"] = float(np.mean([label == path.parent.name for label, path in zip(found, test, strict=True)]))
            honest = labels(server, some)
        with RunningServer(Path(folder) / "altering", *ALTERING) as server:
            first = np.array(labels(server, some))
            changed = first != np.array(honest)
            result["altered_at_rate_0.3"] = float(changed.mean())
            result["copies_with_their_originals_label"] = {}
            for transform in TRANSFORMS:
                same = np.array(labels(server, copies_of(some, transform, random))) == first
                result["copies_with_their_originals_label"][transform] = {
                    "all": round(float(same.mean()), 4),
                    "of_altered_originals": round(float(same[changed].mean()), 4),
                }
        for name, files in (("cifar10_test", test), ("tiny_imagenet_unseen_classes", foreign)):
            with RunningServer(Path(folder) / name, "--profile", "balanced") as server:
                labels(server, [files[i].read_bytes() for i in random.permutation(len(files))[:3000]])
                result[f"balanced_flags_of_{name}"] = server.metric("cloneguard_ood_queries_total") / 3000
    print(json.dumps(result, indent=2))
    (Path(__file__).parent / "results" / "promises.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
