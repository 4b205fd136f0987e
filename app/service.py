"""One running service: what is opened at start, closed at the end, and shared by the public and the admin port."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.decode import Decoder
from app.errors import OverloadedError, ProblemError
from app.inference import Inference
from app.keys import derive, load_or_create
from app.metrics import Metrics
from app.pipeline import Pipeline, defence_steps
from app.settings import Settings
from defenses.calibration import Calibration
from defenses.stores import open_store
from defenses.stores.protocol import QueryStore
from defenses.vocabulary import Case
from models import bundle as bundles
from models.bundle import Bundle

RETRY_AFTER_SECONDS = 1


@dataclass(slots=True, eq=False)
class Service:
    """Everything that a request may need."""

    settings: Settings
    bundle: Bundle
    store: QueryStore
    pipeline: Pipeline
    metrics: Metrics
    admin_token: str
    audit_key: bytes
    draining: bool = False
    in_flight: int = 0
    buffered_bytes: int = 0

    async def ask(self, image: bytes, *, client: str) -> tuple[Case, int]:
        """Answer one image, or shed it when too many are under way. Counts what became of it."""
        if self.in_flight >= self.settings.server.queue:
            self.metrics.failed("shed", shed="queue")
            raise OverloadedError("queue")
        self.in_flight += 1
        try:
            return await self.pipeline.ask(image, client=client)
        except OverloadedError as error:
            self.metrics.failed("shed", shed=error.reason)
            raise
        except ProblemError as error:
            self.metrics.failed("invalid" if error.status < 500 else "failed")
            raise
        finally:
            self.in_flight -= 1


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Load the recognizer, open the store, warm up; close them again at the end.

    Raises BundleError, CalibrationError, StoreError or SecretError with one line that says what is wrong.
    """
    secret = load_or_create(settings.state, "secret", settings.secret)
    admin_token = load_or_create(settings.state, "admin-token", settings.admin.token).decode()
    bundle = await asyncio.to_thread(
        bundles.load,
        settings.model.bundle,
        device=settings.model.device,
        precision=settings.model.precision,
        threads=settings.model.threads,
    )
    outputs = await asyncio.to_thread(bundle.warm_up, max_batch=settings.server.max_batch)
    calibration = await asyncio.to_thread(Calibration.load, bundle.directory / "calibration.npz")
    calibration.check(logits=outputs.logits, features=outputs.features, embedding=outputs.embedding)
    on_cuda = "CUDAExecutionProvider" in bundle.providers
    workers = settings.model.workers or (1 if on_cuda else os.cpu_count() or 1)
    audit_key = derive(secret, "audit")
    store = await open_store(
        settings.store_url(),
        index=f"{bundle.model}:{calibration.digest}",
        audit_key=audit_key,
        perceptual_radius=settings.near_duplicates.perceptual_radius,
        embedding_radius=_embedding_radius(settings, calibration),
    )
    try:
        metrics = Metrics(model=bundle.model, profile=settings.profile)
        metrics.degraded("near_duplicates", is_degraded=calibration.code is None)  # found by the perceptual hash alone
        metrics.neighbourhoods.set(await store.neighbourhoods())
        pipeline = Pipeline(
            Decoder(bundle.manifest.input, max_pixels=settings.server.max_pixels),
            Inference(bundle, workers=workers),
            defence_steps(
                settings,
                bundle=bundle,
                calibration=calibration,
                store=store,
                secret=derive(secret, "misrecognition"),
                on_dropped=metrics.audit_dropped,
            ),
            observe_stage=lambda stage, seconds: metrics.stage_seconds.labels(stage).observe(seconds),
            observe=lambda case: metrics.observe(case, audited=settings.audit.enabled),
            workers=workers,
            max_batch=settings.server.max_batch,
            deadline_seconds=settings.server.deadline_seconds,
        )
        metrics.queue_depth.set_function(lambda: len(pipeline.queue))
        try:
            yield Service(settings, bundle, store, pipeline, metrics, admin_token, audit_key)
        finally:
            await pipeline.close()
    finally:
        await store.close()


def _embedding_radius(settings: Settings, calibration: Calibration) -> int:
    if settings.near_duplicates.embedding_radius is not None:
        return settings.near_duplicates.embedding_radius
    return calibration.code.radius if calibration.code else 0
