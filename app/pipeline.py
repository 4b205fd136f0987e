"""THE PAGE: the way of a query, top to bottom, in execution order."""

import time
from collections.abc import Awaitable, Callable, Sequence

from app.audit import Audit
from app.decode import Decoder
from app.inference import Inference
from app.micro_batches import Answered, MicroBatches
from app.policies import Plan, Policies, Policy
from app.settings import Settings
from defenses.calibration import Calibration
from defenses.evidence.remembering import RememberWatermarks
from defenses.evidence.writer import EvidenceWriter
from defenses.misrecognition import IntentionalMisrecognition
from defenses.near_duplicates import NearDuplicateLookup
from defenses.out_of_distribution.filter import OutOfDistributionFilter
from defenses.relabelling import Relabelling
from defenses.stores.protocol import QueryStore
from defenses.suspicion import Suspicion
from defenses.truncation import OutputTruncation
from defenses.vocabulary import Case, Mode, Query, Step
from defenses.watermark import Watermark
from models.bundle import Bundle


def defence_steps(
    settings: Settings, *, bundle: Bundle, calibration: Calibration, store: QueryStore, secret: bytes, on_dropped: Callable[[int], None],
    on_recorded: Callable[[int], None] = lambda _: None, lookups: QueryStore | None = None, evidence: EvidenceWriter | None = None,
) -> dict[str, Step]:  # fmt: skip
    """What happens to every query between the model and the answer. A defence that is off is not there.

    `lookups` is the store as the near-duplicate lookup sees it, if that is another; without `evidence` nobody remembers watermarks.
    """
    ood, near, misrecognition, watermark, suspicion, truncation = (
        settings.ood, settings.near_duplicates, settings.misrecognition, settings.watermark, settings.suspicion, settings.truncation
    )  # fmt: skip
    steps: dict[str, Step] = {}
    if ood.mode is not Mode.OFF:
        steps["ood"] = OutOfDistributionFilter.calibrated(
            calibration, scorer=ood.scorer, benign_fpr=ood.benign_fpr, hysteresis=ood.hysteresis, mode=ood.mode
        )
    if near.mode is not Mode.OFF:
        steps["near_duplicates"] = NearDuplicateLookup(lookups or store, code=calibration.code, mode=near.mode)
    model = bundle.model
    marks = Watermark(secret=secret, model=model, rate=watermark.rate)
    suspected = Suspicion(tolerated=suspicion.tolerated, certain=suspicion.certain, patience=suspicion.patience)
    relabelling = Relabelling(
        secret=secret, model=model, alteration=misrecognition.alteration, companions=calibration.companions, suspicion=suspected
    )
    if {misrecognition.mode, watermark.mode, suspicion.mode} != {Mode.OFF}:
        steps["misrecognition"] = IntentionalMisrecognition(
            secret=secret, model=model, mode=misrecognition.mode, rate=misrecognition.rate, watermark_mode=watermark.mode, watermark=marks,
            suspicion_mode=suspicion.mode, suspicion=suspected, relabelling=relabelling,
        )  # fmt: skip
    steps["truncation"] = OutputTruncation(
        mode=truncation.mode, top_k=truncation.top_k, decimals=truncation.decimals, labels_only=truncation.labels_only
    )
    if settings.audit.enabled:
        steps["audit"] = Audit(store, on_dropped=on_dropped, on_recorded=on_recorded, required=settings.audit.required)
    if evidence and watermark.mode is Mode.ENFORCE:
        steps["evidence"] = RememberWatermarks(evidence, watermark=marks, relabelling=relabelling, model=model)
    return steps


class Pipeline:
    """Decode each query, then take micro-batches through the model and the steps of the policies that answer them.

    Which policies these are is settled before the model works, so that a micro-batch under way never meets a change of policy. A step
    that raises stops its micro-batch: those queries get an error, never an undefended answer.
    """

    def __init__(
        self, decode: Decoder, infer: Inference, policies: Policies, *, observe_stage: Callable[[str, float], None],
        observe_batch: Callable[[int], None], observe: Callable[[Case], None], workers: int, max_batch: int, deadline_seconds: float,
    ) -> None:  # fmt: skip
        self._decode, self._infer, self._policies = decode, infer, policies
        self._observe_stage, self._observe_batch, self._observe = observe_stage, observe_batch, observe
        self.queue = MicroBatches(self.infer, self.defend, workers=workers, max_batch=max_batch, deadline_seconds=deadline_seconds)

    async def ask(self, image: bytes, *, client: str) -> Answered:
        """Answer one image: returns the finished case and the query's row in it. Raises ProblemError."""
        query = await self._decode(image, client=client)
        return await self.queue.submit(query)

    async def infer(self, queries: tuple[Query, ...]) -> tuple[Plan, Case]:
        """One micro-batch, from pixels to what the model says."""
        plan = self._policies.plan(queries)
        return plan, await self._timed("inference", self._infer(queries, logits_only=plan.logits_only))

    async def defend(self, inferred: tuple[Plan, Case]) -> Sequence[Answered]:
        """One micro-batch, from what the model says to what is answered: the queries of each policy by themselves."""
        plan, case = inferred
        self._observe_batch(len(case.queries))
        parts = [(policy, rows, case if len(rows) == len(case.queries) else case.rows(rows)) for policy, rows in plan.parts]
        finished = [await self._walk(policy, part) for policy, _, part in parts]
        answers: dict[int, Answered] = {}
        for (policy, rows, part), answered in zip(parts, finished, strict=True):
            self._observe(answered)
            answers.update((row, (answered, at)) for at, row in enumerate(rows))
            if plan.candidate and policy is plan.live:
                self._policies.compare(plan.candidate, part, answered)
        return [answers[row] for row in range(len(case.queries))]

    async def _walk(self, policy: Policy, case: Case) -> Case:
        for stage, step in policy.steps:
            case = await self._timed(stage, step(case))
        return case

    async def _timed(self, stage: str, work: Awaitable[Case]) -> Case:
        started = time.perf_counter()
        case = await work
        self._observe_stage(stage, time.perf_counter() - started)
        return case

    async def close(self) -> None:
        """Answer nothing more."""
        await self.queue.close()
        self._infer.close()
        self._decode.close()
