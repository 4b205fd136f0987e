"""Metrics count what happened, and nobody outside can make new series."""

from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import generate_latest

from app.metrics import BusiestClients, Metrics
from defenses.vocabulary import Finding
from tests.defenses.cases import case_of


def samples(metrics: Metrics) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def finding(labels: tuple[str, ...], scores: list[float]) -> Finding:
    flags = np.array([bool(label) for label in labels])
    return Finding(flagged=flags, score=np.array(scores, np.float32), label=labels, doubtful=flags, enforced=True)


def test_a_case_is_counted() -> None:
    """Each finding moves its metric by as many queries as it holds."""
    metrics = Metrics(model="m@1", profile="balanced")
    case = case_of(4)
    flags = np.array([True, True, True, False])
    case = case.with_finding("ood", Finding(flags, np.array([1.0, 0.99, 0.985, 0.2], np.float32), ("",) * 4, flags, enforced=True))
    case = case.with_finding("near_duplicates", finding(("digest", "perceptual", "embedding", ""), [0, 3, 9, 0]))
    case = case.with_finding("misrecognition", finding(("ood", "ood", "rate", ""), [1, 1, 1, 0]))
    case = case.with_finding("watermark", replace(finding(("", "watermark", "", "watermark"), [0, 1, 0, 1]), enforced=False))
    case = replace(case, reasons=("ood", "ood", "rate", ""))
    metrics.observe(case)
    metrics.audit_recorded(4)
    seen = samples(metrics)
    assert seen['cloneguard_queries_total{outcome="answered"}'] == 4
    assert seen["cloneguard_ood_queries_total"] == 3
    assert seen["cloneguard_ood_score_count"] == 4
    assert seen['cloneguard_near_duplicate_queries_total{channel="embedding"}'] == 1
    assert seen["cloneguard_near_duplicate_distance_sum"] == 12
    assert seen['cloneguard_misrecognized_answers_total{reason="ood"}'] == 2
    assert seen['cloneguard_misrecognized_answers_total{reason="watermark"}'] == 0
    assert seen['cloneguard_shadow_misrecognitions_total{reason="watermark"}'] == 2
    assert seen["cloneguard_audit_records_total"] == 4
    assert seen['cloneguard_client_queries_total{client="alice"}'] == 4


def test_refusals_are_counted_apart() -> None:
    """Shed and invalid queries are no answers."""
    metrics = Metrics(model="m@1", profile="balanced")
    metrics.failed("invalid")
    metrics.failed("shed", shed="queue")
    seen = samples(metrics)
    assert seen['cloneguard_queries_total{outcome="invalid"}'] == 1
    assert seen['cloneguard_shed_total{reason="queue"}'] == 1
    assert seen['cloneguard_queries_total{outcome="answered"}'] == 0


@pytest.mark.parametrize("clients", [10, 5000])
def test_the_client_series_stay_few(clients: int) -> None:
    """However many clients come, twenty series are shown, and memory is bounded."""
    busiest = BusiestClients(shown=20, capacity=100)
    for i in range(clients):
        busiest.add(f"client-{i}")
    (family,) = busiest.collect()
    assert len(family.samples) == min(clients, 20)


def test_a_heavy_client_is_not_washed_out_by_many_light_ones() -> None:
    """Space-Saving keeps every client whose share is above 1 / capacity, and shows what it asked itself."""
    busiest = BusiestClients(shown=5, capacity=50)
    for i in range(2000):
        busiest.add(f"passer-by-{i}")
        if i % 10 == 0:
            busiest.add("thief")
    (family,) = busiest.collect()
    counts = {sample.labels["client"]: sample.value for sample in family.samples}
    assert counts["thief"] == 200
    assert all(count < 10 for client, count in counts.items() if client != "thief")
    assert max(counts, key=lambda client: counts[client]) == "thief"


def test_accounts_are_always_shown_and_never_displaced_by_addresses() -> None:
    """Operators make them, so they are counted exactly, beside the busiest addresses; of very many the busiest hundred are shown."""
    busiest = BusiestClients(shown=5, capacity=50, is_registered=lambda client: client.startswith("account"))
    for client in ["account-quiet", *(f"passer-by-{i}" for i in range(2000)), "account-quiet"]:
        busiest.add(client)
    (family,) = busiest.collect()
    assert {sample.labels["client"]: sample.value for sample in family.samples}["account-quiet"] == 2
    assert len(family.samples) == 6
    for i in range(300):
        busiest.add(f"account-{i}")
    (family,) = busiest.collect()
    assert len(family.samples) == 105
