"""Query-abuse metrics for Prometheus. Labels come from closed sets only: a scanner can't create series."""

import heapq
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Gauge, Histogram, PlatformCollector, ProcessCollector, disable_created_metrics
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from app import __version__
from defenses.vocabulary import Case

OUTCOMES = ("answered", "invalid", "unauthorized", "forbidden", "quota", "shed", "failed")
CHANNELS = ("digest", "perceptual", "embedding")
REASONS = ("ood", "rate", "suspicion", "watermark")
CANDIDATE_OUTCOMES = ("same", "other_label", "other_scores")  # beside the live answer
ROUTES = ("predict", "infer")
SHED_REASONS = ("queue", "memory", "deadline", "shutdown", "store", "accounts")
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
STAGE_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)


class BusiestClients(Collector):
    """Count queries of the busiest clients in bounded memory, and show the first few of them.

    Space-Saving (Metwally et al. 2005): when `capacity` clients are counted, a new one takes the place of the least busy and inherits
    its count, so no true heavy hitter is missed. What is shown leaves out what was inherited: nobody is blamed for another's queries.

    Registered clients are counted apart and exactly, because only operators make them; the busiest `registered_shown` are shown.
    """

    def __init__(
        self,
        *,
        shown: int = 20,
        capacity: int = 1000,
        is_registered: Callable[[str], bool] = lambda _: False,
        registered_shown: int = 100,
    ) -> None:
        self._shown, self._capacity = shown, capacity
        self._is_registered, self._registered_shown = is_registered, registered_shown
        self._counts: dict[str, int] = {}
        self._inherited: dict[str, int] = {}
        self._registered: dict[str, int] = {}

    def add(self, client: str) -> None:
        """Count one query."""
        if self._is_registered(client):
            self._registered[client] = self._registered.get(client, 0) + 1
            return
        if client not in self._counts and len(self._counts) >= self._capacity:
            least = min(self._counts, key=self._counts.__getitem__)
            self._counts[client] = self._inherited[client] = self._counts.pop(least)
            self._inherited.pop(least, None)
        self._counts[client] = self._counts.get(client, 0) + 1

    def collect(self) -> Iterable[Metric]:
        """Give Prometheus the registered clients and the busiest others."""
        family = CounterMetricFamily("cloneguard_client_queries", "Queries of accounts and of the busiest others.", labels=["client"])
        own = {client: count - self._inherited.get(client, 0) for client, count in self._counts.items()}
        for counts, shown in ((self._registered, self._registered_shown), (own, self._shown)):
            for client in heapq.nlargest(shown, counts, key=counts.__getitem__):
                family.add_metric([client], counts[client])
        yield family


class Metrics:
    """All metrics of one service, in a registry of its own."""

    def __init__(self, *, model: str, profile: str, is_registered: Callable[[str], bool] = lambda _: False) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        queries = PrometheusCounter("cloneguard_queries_total", "Queries by what became of them.", ["outcome"], registry=registry)
        self._queries = {outcome: queries.labels(outcome) for outcome in OUTCOMES}
        self._ood = PrometheusCounter("cloneguard_ood_queries_total", "Queries flagged as out of distribution.", registry=registry)
        self._ood_score = Histogram(
            "cloneguard_ood_score",
            "Out-of-distribution score as a benign quantile: 0.99 means that 1% of benign queries score higher.",
            buckets=(0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0),
            registry=registry,
        )
        near = PrometheusCounter(
            "cloneguard_near_duplicate_queries_total", "Queries that joined a neighbourhood, by channel.", ["channel"], registry=registry
        )
        self._near_duplicates = {channel: near.labels(channel) for channel in CHANNELS}
        self._distance = Histogram(
            "cloneguard_near_duplicate_distance",
            "Hamming distance to the founder (bits).",
            buckets=(0, 1, 2, 4, 6, 8, 12, 16, 24, 32),
            registry=registry,
        )
        altered = PrometheusCounter(
            "cloneguard_misrecognized_answers_total",
            "Answers altered on purpose, by reason.",
            ["reason"],
            registry=registry,
        )
        self._misrecognized = {reason: altered.labels(reason) for reason in REASONS}
        shadowed = PrometheusCounter(
            "cloneguard_shadow_misrecognitions_total", "Answers that enforce would have altered, by reason.", ["reason"], registry=registry
        )
        self._shadowed = {reason: shadowed.labels(reason) for reason in REASONS}
        requests = Histogram(
            "cloneguard_request_seconds", "From the request's headers to its answer (s).", ["route"], buckets=SECONDS, registry=registry
        )
        self.request_seconds = {route: requests.labels(route) for route in ROUTES}
        stages = Histogram(
            "cloneguard_stage_seconds", "Time of a micro-batch in one stage (s).", ["stage"], buckets=STAGE_SECONDS, registry=registry
        )
        self._stages, self._stage_seconds = stages, {"inference": stages.labels("inference")}
        self._batch_size = Histogram(
            "cloneguard_inference_batch_size", "Queries in one pass of the model.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.queue_depth = Gauge("cloneguard_queue_depth", "Queries that wait for the model.", registry=registry)
        shed = PrometheusCounter("cloneguard_shed_total", "Queries refused with 503, by reason.", ["reason"], registry=registry)
        self._shed = {reason: shed.labels(reason) for reason in SHED_REASONS}
        self.neighbourhoods = Gauge("cloneguard_store_neighbourhoods", "Neighbourhoods in this model's index.", registry=registry)
        self._degraded = Gauge("cloneguard_degraded", "1 while a component works in a lesser way.", ["component"], registry=registry)
        self._records = PrometheusCounter("cloneguard_audit_records_total", "Audit records written.", registry=registry)
        self._dropped = PrometheusCounter(
            "cloneguard_audit_dropped_total", "Audit records that could not be kept; if required, no answer left.", registry=registry
        )
        self._kept = PrometheusCounter("cloneguard_evidence_triggers_total", "Watermarked answers kept as evidence.", registry=registry)
        self._lost = PrometheusCounter(
            "cloneguard_evidence_dropped_total", "Watermarked answers that could not be kept as evidence.", registry=registry
        )
        self._policy_version = Gauge(
            "cloneguard_policy_version", "Newest version of the policy that this server follows.", registry=registry
        )
        candidate = PrometheusCounter(
            "cloneguard_candidate_answers_total", "Answers that the policy on trial would have given.", ["outcome"], registry=registry
        )
        self._candidate = {outcome: candidate.labels(outcome) for outcome in CANDIDATE_OUTCOMES}
        self._model = model
        self._info = Gauge(
            "cloneguard_build_info", "Always 1; the labels say what runs.", ["version", "model", "profile"], registry=registry
        )
        self.policy(0, profile=profile)
        self._clients = BusiestClients(is_registered=is_registered)
        registry.register(self._clients)

    def observe(self, case: Case) -> None:
        """Count a finished case."""
        self._queries["answered"].inc(len(case.queries))
        for query in case.queries:
            self._clients.add(query.client)
        if ood := case.findings.get("ood"):
            self._ood.inc(int(ood.flagged.sum()))
            for score in ood.score.tolist():
                self._ood_score.observe(score)
        if near := case.findings.get("near_duplicates"):
            for channel, distance in zip(near.label, near.score.tolist(), strict=True):
                if channel:
                    self._near_duplicates[channel].inc()
                    self._distance.observe(distance)
        for reason in filter(None, case.reasons):
            self._misrecognized[reason].inc()
        shadows = (
            finding
            for name in ("misrecognition", "suspicion", "watermark")
            if (finding := case.findings.get(name)) and not finding.enforced
        )
        for reason in filter(None, (label for finding in shadows for label in finding.label)):
            self._shadowed[reason].inc()

    def batch(self, queries: int) -> None:
        """Count one pass of the model."""
        self._batch_size.observe(queries)

    def policy(self, version: int, *, profile: str) -> None:
        """Say which policy is in force."""
        self._policy_version.set(version)
        self._info.clear()
        self._info.labels(__version__, self._model, profile).set(1)

    def candidate(self, outcomes: Mapping[str, int]) -> None:
        """Count what a policy on trial would have answered."""
        for outcome, queries in outcomes.items():
            self._candidate[outcome].inc(queries)

    def stage(self, stage: str, seconds: float) -> None:
        """Time one micro-batch in one stage."""
        if stage not in self._stage_seconds:  # a closed set: the steps of the pipeline
            self._stage_seconds[stage] = self._stages.labels(stage)
        self._stage_seconds[stage].observe(seconds)

    def degraded(self, component: str, *, is_degraded: bool) -> None:
        """Say whether a component works in a lesser way."""
        self._degraded.labels(component).set(is_degraded)

    def degrades(self, component: str, is_degraded: Callable[[], bool]) -> None:
        """Ask a component at each scrape whether it works in a lesser way."""
        self._degraded.labels(component).set_function(is_degraded)

    def failed(self, outcome: str, *, shed: str | None = None) -> None:
        """Count a query that got no answer."""
        self._queries[outcome].inc()
        if shed:
            self._shed[shed].inc()

    def audit_recorded(self, records: int) -> None:
        """Count records that were written, or wait for Redis."""
        self._records.inc(records)

    def audit_dropped(self, records: int) -> None:
        """Count records that could not be written."""
        self._dropped.inc(records)

    def evidence_kept(self, triggers: int) -> None:
        """Count watermarked answers that are in the vault."""
        self._kept.inc(triggers)

    def evidence_dropped(self, triggers: int) -> None:
        """Count watermarked answers that found no room."""
        self._lost.inc(triggers)
