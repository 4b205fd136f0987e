"""One running service: what is opened at start, closed at the end, and shared by the public and the admin port."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from app.decode import Decoder
from app.errors import OverloadedError, ProblemError
from app.inference import Inference
from app.keys import derive, load_or_create
from app.metrics import Metrics
from app.pipeline import Pipeline, defence_steps
from app.settings import Settings, SettingsError
from defenses.calibration import Calibration
from defenses.stores import open_store
from defenses.stores.hamming import widest_exact_radius
from defenses.stores.protocol import QueryStore
from defenses.vocabulary import Case, Mode
from models import bundle as bundles
from models.bundle import Bundle

RETRY_AFTER_SECONDS = 1
UNCALIBRATED_PERCEPTUAL_RADIUS = 4  # bits

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Service:
    """Everything that a request may need."""

    settings: Settings
    bundle: Bundle
    store: QueryStore
    pipeline: Pipeline
    metrics: Metrics
    admin_token: str
    draining: bool = False
    in_flight: int = 0
    buffered_bytes: int = 0

    async def ask(self, *images: bytes, client: str) -> list[tuple[Case, int]]:
        """Answer images, all of them or none: a request that does not fit among those under way is shed before it costs anything."""
        if self.in_flight + len(images) > self.settings.server.queue:
            raise OverloadedError("queue")
        self.in_flight += len(images)
        try:
            if len(images) == 1:
                return [await self.pipeline.ask(images[0], client=client)]
            return await gather_all(self.pipeline.ask(image, client=client) for image in images)
        finally:
            self.in_flight -= len(images)

    @contextmanager
    def observed(self, route: str) -> Iterator[None]:
        """Time a request, and count what became of it when it gets no answer."""
        started = time.perf_counter()
        try:
            yield
        except OverloadedError as error:
            self.metrics.failed("shed", shed=error.reason)
            raise
        except ProblemError as error:
            self.metrics.failed("invalid" if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else "failed")
            raise
        except Exception:
            self.metrics.failed("failed")
            raise
        finally:
            self.metrics.request_seconds[route].observe(time.perf_counter() - started)


async def gather_all(tasks: Iterable[Awaitable[Result]]) -> list[Result]:
    """Wait for all tasks, then raise the first error if there was one: no query is left running behind an answer."""
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


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
    listed = "calibration.npz" in bundle.manifest.files  # a file that the manifest does not name was not verified
    calibration = await asyncio.to_thread(Calibration.load, bundle.directory / "calibration.npz") if listed else Calibration()
    calibration.check(logits=outputs.logits, features=outputs.features, embedding=outputs.embedding)
    on_cuda = "CUDAExecutionProvider" in bundle.providers
    passes = settings.model.workers or (1 if on_cuda else max(1, (os.cpu_count() or 1) // 2))
    store = await open_store(
        settings.store_url(),
        index=f"{bundle.model}:{bundle.manifest.files[bundle.manifest.models['fp32']][:16]}:{calibration.digest}",
        audit_key=derive(secret, "audit"),
        perceptual_radius=perceptual_radius(settings, calibration),
        embedding_radius=_embedding_radius(settings, calibration),
    )
    try:
        metrics = Metrics(model=bundle.model, profile=settings.profile)
        metrics.degraded("near_duplicates", is_degraded=calibration.code is None)  # found by the perceptual hash alone
        metrics.neighbourhoods.set(await store.neighbourhoods())
        pipeline = Pipeline(
            Decoder(bundle.manifest.input, max_pixels=settings.server.max_pixels, deadline_seconds=settings.server.deadline_seconds),
            Inference(bundle, workers=passes, logits_only=settings.ood.mode is settings.near_duplicates.mode is Mode.OFF),
            defence_steps(
                settings,
                bundle=bundle,
                calibration=calibration,
                store=store,
                secret=derive(secret, "misrecognition"),
                on_dropped=metrics.audit_dropped,
            ),
            observe_stage=metrics.stage,
            observe=lambda case: metrics.observe(case, audited=settings.audit.enabled),
            workers=passes,
            max_batch=settings.server.max_batch,
            deadline_seconds=settings.server.deadline_seconds,
        )
        metrics.queue_depth.set_function(lambda: len(pipeline.queue))
        try:
            yield Service(settings, bundle, store, pipeline, metrics, admin_token)
        finally:
            await pipeline.close()
    finally:
        await store.close()


def perceptual_radius(settings: Settings, calibration: Calibration) -> int:
    """The radius of the perceptual hash: said in the settings, else calibrated, else one that fits most photographs."""
    own = UNCALIBRATED_PERCEPTUAL_RADIUS if calibration.perceptual_radius is None else calibration.perceptual_radius
    radius = settings.near_duplicates.perceptual_radius
    return own if radius is None else radius


def _embedding_radius(settings: Settings, calibration: Calibration) -> int:
    if calibration.code is None:
        return 0
    radius, widest = settings.near_duplicates.embedding_radius, widest_exact_radius(calibration.code.bits // 8)
    if radius is None:
        return calibration.code.radius
    if radius > widest:
        raise SettingsError(f"near_duplicates.embedding_radius={radius} is above {widest}, the widest for this bundle's code")
    return radius
