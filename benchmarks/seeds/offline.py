"""The service's own steps and store without HTTP: the model passes are made once, in bulk, and every setting is played on them."""

import hashlib
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax  # type: ignore[import-untyped]  # ships no types

from app.pipeline import defence_steps
from app.settings import Settings, read_settings
from benchmarks.image_sets import Pixels
from benchmarks.seeds.fingerprints import Eyes
from defenses.calibration import Calibration
from defenses.stores import open_store
from defenses.stores.protocol import QueryStore
from defenses.vocabulary import Case, Query, Step
from models.bundle import Outputs

BATCH = 32  # the server's largest micro-batch


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """n images and what the model says about them."""

    pixels: Pixels
    outputs: Outputs

    def case(self, rows: NDArray[np.int64], *, client: str) -> Case:
        """The case of some images, as the model hands it to the defences."""
        queries = tuple(
            Query(id="", client=client, pixels=self.pixels[row], digest=hashlib.sha256(self.pixels[row].tobytes()).digest(), received=0.0)
            for row in rows
        )
        logits, features, embedding = (getattr(self.outputs, name)[rows] for name in ("logits", "features", "embedding"))
        return Case(queries, logits, features, embedding, scores=softmax(logits, axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class Offline:
    """One deployment: its settings and its memory of queries."""

    eyes: Eyes
    calibration: Calibration
    settings: Settings
    store: QueryStore

    def steps(self, secret: bytes) -> Mapping[str, Step]:
        """The pipeline's steps under a secret."""
        return defence_steps(
            self.settings, bundle=self.eyes.bundle, calibration=self.calibration, store=self.store, secret=secret, on_dropped=lambda _: None
        )

    async def ask(self, seen: Seen, rows: NDArray[np.int64], *, client: str, secret: bytes) -> Case:
        """Take queries through all steps in order, a micro-batch at a time, and join the finished cases."""
        steps = self.steps(secret)
        cases = []
        for start in range(0, len(rows), BATCH):
            case = seen.case(rows[start : start + BATCH], client=client)
            for step in steps.values():
                case = await step(case)
            cases.append(case)
        return joined(cases)


def joined(cases: Sequence[Case]) -> Case:
    """One case of several, without findings and answers."""
    return Case(
        queries=tuple(query for case in cases for query in case.queries),
        logits=np.concatenate([case.logits for case in cases]),
        features=np.concatenate([case.features for case in cases]),
        embedding=np.concatenate([case.embedding for case in cases]),
        scores=np.concatenate([case.scores for case in cases]),
        neighbourhoods=tuple(neighbourhood for case in cases for neighbourhood in case.neighbourhoods),
        reasons=tuple(reason for case in cases for reason in case.reasons),
    )


@asynccontextmanager
async def deployment(eyes: Eyes, *assignments: str, profile: str, with_code: bool = True) -> AsyncIterator[Offline]:
    """A deployment with an empty store in a temporary folder; without the code, only the perceptual hash finds near-duplicates."""
    calibration = eyes.calibration if with_code else replace(eyes.calibration, code=None)
    with tempfile.TemporaryDirectory() as folder:
        settings = read_settings(assignments=["audit.enabled=false", *assignments], profile=profile, state=Path(folder))
        store = await open_store(
            settings.store_url(), index="benchmark", audit_key=b"", perceptual_radius=eyes.perceptual_radius,
            embedding_radius=eyes.code.radius if with_code else 0,
        )  # fmt: skip
        try:
            yield Offline(eyes, calibration, settings, store)
        finally:
            await store.close()
