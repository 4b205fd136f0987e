"""What is opened at start, in order, and closed at the end, in reverse."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from app.accounts import Accounts
from app.accounts.following import following
from app.audit import record_event
from app.clients import Clients
from app.decode import Decoder
from app.documents import open_documents
from app.inference import Inference
from app.keys import derive, load_or_create
from app.metrics import Metrics
from app.pipeline import Pipeline, defence_steps
from app.policies import InForce, Policies, PolicyChanges
from app.quotas import Limits, open_quotas
from app.service import Service
from app.settings import Settings, SettingsError
from defenses.calibration import Calibration
from defenses.evidence.writer import EvidenceWriter
from defenses.stores import DAY_SECONDS, open_store
from defenses.stores.hamming import widest_exact_radius
from defenses.stores.protocol import QueryStore
from models import bundle as bundles
from models.bundle import Bundle

UNCALIBRATED_PERCEPTUAL_RADIUS = 4  # bits

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Load the recognizer, warm it up, open the store, follow accounts and policy; close all of it again at the end.

    Raises BundleError, CalibrationError, StoreError, SettingsError or SecretError with one line that says what is wrong.
    """
    secret = load_or_create(settings.state, "secret", settings.secret)
    admin_token = load_or_create(settings.state, "admin-token", settings.admin.token).decode()
    bundle, calibration = await _recognizer(settings)
    async with AsyncExitStack() as until_the_end:
        store = await _store(settings, bundle, calibration, audit_key=derive(secret, "audit"))
        until_the_end.push_async_callback(store.close)

        accounts = Accounts(pepper=derive(secret, "keys"))
        metrics = Metrics(model=bundle.model, profile=settings.profile, is_registered=accounts.__contains__)
        metrics.degraded("near_duplicates", is_degraded=calibration.code is None)  # found by the perceptual hash alone
        metrics.degrades("store", lambda: store.degraded)
        metrics.degraded("quotas", is_degraded=False)

        evidence = await _evidence(settings, metrics, key=derive(secret, "evidence"))
        if evidence:
            until_the_end.push_async_callback(asyncio.to_thread, evidence.close)
            metrics.degrades("evidence", lambda: evidence.degraded)
        steps = partial(
            defence_steps, bundle=bundle, calibration=calibration, store=store, secret=derive(secret, "misrecognition"),
            on_dropped=metrics.audit_dropped, on_recorded=metrics.audit_recorded, evidence=evidence,
        )  # fmt: skip
        policies = Policies(settings, build=steps, store=store, profile_of=accounts.profile_of, observe=metrics.candidate)
        until_the_end.push_async_callback(policies.close)
        pipeline = _pipeline(settings, bundle, policies, metrics)
        until_the_end.push_async_callback(pipeline.close)
        metrics.queue_depth.set_function(lambda: len(pipeline.queue))

        clients = Clients(
            accounts, anonymous=settings.accounts.anonymous, trusted_proxies=settings.server.trusted_proxies,
            ipv6_prefix=settings.server.ipv6_prefix,
        )  # fmt: skip
        quotas = open_quotas(
            settings, limits=Limits(**settings.limits.model_dump()), own_limits=accounts.limits_of,
            on_degraded=lambda is_degraded: metrics.degraded("quotas", is_degraded=is_degraded),
        )  # fmt: skip
        until_the_end.push_async_callback(quotas.close)

        async def record(event: dict[str, Any]) -> None:
            log.info("%s", event)
            if settings.audit.enabled:
                await record_event(store, event)
                metrics.audit_recorded(1)

        def on_policy(now: InForce) -> None:
            metrics.policy(now.version, profile=now.live.settings.profile)
            quotas.limits = Limits(**now.live.settings.limits.model_dump())

        documents = open_documents(settings)
        until_the_end.push_async_callback(documents.close)
        changes = PolicyChanges(policies, documents, record=record, on_change=on_policy)
        await until_the_end.enter_async_context(changes.following())
        await until_the_end.enter_async_context(following(accounts, documents, record=record))
        yield Service(settings, bundle, store, pipeline, metrics, admin_token, accounts, clients, quotas, policies, changes)


async def _recognizer(settings: Settings) -> tuple[Bundle, Calibration]:
    """A warm model, and what its outputs look like on its own images."""
    model = settings.model
    bundle = await asyncio.to_thread(bundles.load, model.bundle, device=model.device, precision=model.precision, threads=model.threads)
    outputs = await asyncio.to_thread(bundle.warm_up, max_batch=settings.server.max_batch)
    listed = "calibration.npz" in bundle.manifest.files  # a file that the manifest does not name was not verified
    calibration = await asyncio.to_thread(Calibration.load, bundle.directory / "calibration.npz") if listed else Calibration()
    calibration.check(logits=outputs.logits, features=outputs.features, embedding=outputs.embedding)
    return bundle, calibration


async def _store(settings: Settings, bundle: Bundle, calibration: Calibration, *, audit_key: bytes) -> QueryStore:
    return await open_store(
        settings.store_url(),
        index=f"{bundle.model}:{bundle.manifest.files[bundle.manifest.models['fp32']][:16]}:{calibration.digest}",
        audit_key=audit_key,
        perceptual_radius=perceptual_radius(settings, calibration),
        embedding_radius=_embedding_radius(settings, calibration),
        most_neighbourhoods=settings.store.most_neighbourhoods,
        retention_seconds=settings.store.retention_days * DAY_SECONDS,
        timeout_seconds=settings.store.timeout_seconds,
        audit_buffer=settings.store.audit_buffer,
        most_audit_records=settings.store.most_audit_records,
    )


async def _evidence(settings: Settings, metrics: Metrics, *, key: bytes) -> EvidenceWriter | None:
    if not settings.evidence.enabled:
        return None
    return await asyncio.to_thread(
        EvidenceWriter,
        settings.evidence_path(),
        key=key,
        retention_seconds=settings.evidence.retention_days * DAY_SECONDS,
        most_bytes=settings.evidence.most_bytes,
        on_kept=metrics.evidence_kept,
        on_dropped=metrics.evidence_dropped,
    )


def _pipeline(settings: Settings, bundle: Bundle, policies: Policies, metrics: Metrics) -> Pipeline:
    on_cuda = "CUDAExecutionProvider" in bundle.providers
    passes = settings.model.workers or (1 if on_cuda else max(1, (os.cpu_count() or 1) // 2))
    server = settings.server
    return Pipeline(
        Decoder(bundle.manifest.input, max_pixels=server.max_pixels, deadline_seconds=server.deadline_seconds),
        Inference(bundle, workers=passes),
        policies,
        observe_stage=metrics.stage,
        observe_batch=metrics.batch,
        observe=metrics.observe,
        workers=passes,
        max_batch=server.max_batch,
        deadline_seconds=server.deadline_seconds,
    )


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
