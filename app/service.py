"""One running service: what is opened at start, closed at the end, and shared by the public and the admin port."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from app.accounts import Accounts
from app.accounts.following import following
from app.audit import record_event
from app.clients import Clients
from app.decode import Decoder
from app.documents import open_documents
from app.errors import OverloadedError, ProblemError
from app.inference import Inference
from app.keys import derive, load_or_create
from app.metrics import Metrics
from app.pipeline import Pipeline, defence_steps
from app.policies import InForce, Policies, PolicyChanges
from app.quotas import Limits, Quotas, open_quotas
from app.settings import Settings, SettingsError
from defenses.calibration import Calibration
from defenses.stores import DAY_SECONDS, open_store
from defenses.stores.hamming import widest_exact_radius
from defenses.stores.protocol import QueryStore
from defenses.vocabulary import Case
from models import bundle as bundles
from models.bundle import Bundle

RETRY_AFTER_SECONDS = 1
UNCALIBRATED_PERCEPTUAL_RADIUS = 4  # bits

Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Service:
    """Everything that a request may need."""

    settings: Settings
    bundle: Bundle
    store: QueryStore
    pipeline: Pipeline
    metrics: Metrics
    admin_token: str
    accounts: Accounts
    clients: Clients
    quotas: Quotas
    policies: Policies
    policy_changes: PolicyChanges
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
        except ProblemError as error:
            self.metrics.failed(error.outcome, shed=error.reason if isinstance(error, OverloadedError) else None)
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
        most_neighbourhoods=settings.store.most_neighbourhoods,
        retention_seconds=settings.store.retention_days * DAY_SECONDS,
        timeout_seconds=settings.store.timeout_seconds,
        audit_buffer=settings.store.audit_buffer,
        most_audit_records=settings.store.most_audit_records,
    )
    try:
        accounts = Accounts(pepper=derive(secret, "keys"))
        metrics = Metrics(model=bundle.model, profile=settings.profile, is_registered=accounts.__contains__)
        metrics.degraded("near_duplicates", is_degraded=calibration.code is None)  # found by the perceptual hash alone
        metrics.degrades("store", lambda: store.degraded)
        metrics.degraded("quotas", is_degraded=False)
        policies = Policies(
            settings,
            build=partial(
                defence_steps,
                bundle=bundle,
                calibration=calibration,
                store=store,
                secret=derive(secret, "misrecognition"),
                on_dropped=metrics.audit_dropped,
                on_recorded=metrics.audit_recorded,
            ),
            store=store,
            profile_of=accounts.profile_of,
            observe=metrics.candidate,
        )
        pipeline = Pipeline(
            Decoder(bundle.manifest.input, max_pixels=settings.server.max_pixels, deadline_seconds=settings.server.deadline_seconds),
            Inference(bundle, workers=passes),
            policies,
            observe_stage=metrics.stage,
            observe_batch=metrics.batch,
            observe=metrics.observe,
            workers=passes,
            max_batch=settings.server.max_batch,
            deadline_seconds=settings.server.deadline_seconds,
        )
        metrics.queue_depth.set_function(lambda: len(pipeline.queue))
        clients = Clients(
            accounts,
            anonymous=settings.accounts.anonymous,
            trusted_proxies=settings.server.trusted_proxies,
            ipv6_prefix=settings.server.ipv6_prefix,
        )
        quotas = open_quotas(
            settings,
            limits=Limits(**settings.limits.model_dump()),
            own_limits=accounts.limits_of,
            on_degraded=lambda is_degraded: metrics.degraded("quotas", is_degraded=is_degraded),
        )
        documents = open_documents(settings)

        async def record(event: dict[str, Any]) -> None:
            log.info("%s", event)
            if settings.audit.enabled:
                await record_event(store, event)
                metrics.audit_recorded(1)

        def on_policy(now: InForce) -> None:
            metrics.policy(now.version, profile=now.live.settings.profile)
            quotas.limits = Limits(**now.live.settings.limits.model_dump())

        changes = PolicyChanges(policies, documents, record=record, on_change=on_policy)
        try:
            async with changes.following(), following(accounts, documents, record=record):
                yield Service(settings, bundle, store, pipeline, metrics, admin_token, accounts, clients, quotas, policies, changes)
        finally:
            await documents.close()
            await quotas.close()
            await pipeline.close()
            await policies.close()
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
