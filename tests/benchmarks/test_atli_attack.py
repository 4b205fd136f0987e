"""The servers answer as the paper's tables say, and figures are compared with the right ones."""

from collections.abc import Callable

import httpx
import pytest

from benchmarks.seeds.atli_attack import ARMS, figures, table
from tests.pictures import png, ship, smooth_noise
from tests.server import RunningServer

FOREIGN, OWN = 12, 6


def test_servers_answer_as_the_tables_say(start: Callable[..., RunningServer]) -> None:
    """Vectors tell all classes and labels one; the filter alters what nobody knows and no ships, in either way, and remembers no copies."""
    bodies = [png(smooth_noise(seed=seed)) for seed in range(FOREIGN)] + [png(ship(seed=seed, size=32)) for seed in range(OWN)]
    told = {}
    for arm, options in ARMS.items():
        server = start(*options)
        told[arm] = [predictions(server, body) for body in bodies]
        assert server.metric("cloneguard_near_duplicate_queries_total") == 0
    vector, label, *filtered = told.values()
    assert all(len(answer) == 10 for answer in vector)
    assert [[best["class_id"] for best in answer] for answer in label] == [[answer[0]["class_id"]] for answer in vector]
    assert not any("score" in best for answer in label for best in answer)
    for altered in filtered:
        changed = [now[0]["class_id"] != then[0]["class_id"] for now, then in zip(altered, vector, strict=True)]
        assert sum(changed[:FOREIGN]) >= FOREIGN / 2
        assert not any(changed[FOREIGN:])
        assert all(scores(now) == scores(then) for now, then in zip(altered, vector, strict=True))  # a relabelling
    assert filtered[0] != filtered[1]


def predictions(server: RunningServer, body: bytes) -> list[dict[str, float]]:
    """What a server says of one image."""
    answer = httpx.post(f"{server.url}/predict", content=body, headers={"content-type": "image/png"}, timeout=30)
    found: list[dict[str, float]] = answer.raise_for_status().json()["predictions"]
    return found


def scores(answer: list[dict[str, float]]) -> list[float]:
    """An answer's scores, best first."""
    return [entry["score"] for entry in answer]


def test_figures_are_compared_with_the_full_vector() -> None:
    """A clone from labels that is half as good as the one from vectors is at 0.5 of it, and relative to the victim too."""
    accuracies = (0.8, 0.4, 0.1, 0.2)
    rows = [
        {
            "victim": "gtsrb", "budget": 5_000, "server": list(server), "model": {"accuracy": 0.99},
            "accuracy": {"value": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01},
            "fidelity_to_reference_on_test": {"value": accuracy, "low": 0.0, "high": 1.0},
            "server_counted": {"queries": 5_000, "altered": 100 * at},
        }
        for at, (accuracy, server) in enumerate(zip(accuracies, ARMS.values(), strict=True))
    ]  # fmt: skip
    found = figures(rows)
    assert [row["of_full_vector"] for row in found] == pytest.approx([1, 0.5, 0.125, 0.25])
    assert [row["relative"] for row in found] == pytest.approx([accuracy / 0.99 for accuracy in accuracies])
    assert [row["altered"] for row in found] == pytest.approx([0, 0.02, 0.04, 0.06])
    assert table("gtsrb", found).row_count == len(ARMS) + 4
