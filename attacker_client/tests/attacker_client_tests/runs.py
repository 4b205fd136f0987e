"""What a campaign writes into run.json, for the tests of the pages."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image


def measured(value: float, n: int = 200) -> dict[str, Any]:
    """A measure with some interval."""
    return {"value": value, "low": max(0.0, value - 0.06), "high": min(1.0, value + 0.06), "n": n}


def a_run(**changes: Any) -> dict[str, Any]:
    """A run of two classes, with `changes`."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(buffer, "PNG")
    png = base64.b64encode(buffer.getvalue()).decode()
    classes = [
        {"class_id": n, "name": name, "accuracy": measured(0.6, 100), "fidelity": measured(0.7)} for n, name in enumerate(["cat", "dog"])
    ]
    run: dict[str, Any] = {
        "attack": "standard", "budget": 500, "queries_answered": 480, "seconds": 75.0,
        "accuracy": measured(0.654), "fidelity": measured(0.712),
        "fidelity_on_test": None, "fidelity_to_reference": None, "fidelity_to_reference_on_test": None, "per_class": classes, "notes": [],
        "evaluation": {"queries_answered": 200, "queries_sent": 201}, "queries_sent": 483, "refusals": 3, "bad_images": 1,
        "seconds_waiting": 2.5,
        "bytes_sent": 1_234_567, "bytes_received": 98_765, "uncertain": 0,
        "epochs": [{"fit": 1, "epoch": n, "epochs": 3, "loss": 2.0 / n, "holdout_fidelity": 0.2 * n} for n in (1, 2, 3)],
        "student": "small", "recipe": "fast", "options": {}, "images": "builtin", "size": 16, "hard_labels": False, "pretrained": False,
        "seed": 0, "target": "http://127.0.0.1:8000/predict", "identities": 1, "forwarded_for": False, "epochs_asked_for": None,
        "test_images": None, "reference": None,
        "findings": {"clusters_used": 7, "sybil": {"by": "random"}, "drawn": [1, 2.5], "flagged": True},
        "versions": {"attacker-client": "0.3.0", "torch": "2.12.0", "python": "3.11.7"}, "device": "CPU, 2 threads",
        "finished": "2026-11-21T12:00:00+00:00", "command": "attacker-client run http://127.0.0.1:8000/predict --attack standard",
        "examples": [{"png": png, "label": "cat", "score": 0.91}, {"png": png, "label": "<b>dog</b>", "score": None}],
        "told": {
            "seen": 480, "classes": 2, "entries": "2", "decimals": 4, "best_score": 0.8, "most_frequent": 0.6,
            "labels": [{"label": "cat", "count": 288}, {"label": "<b>dog</b>", "count": 192}],
        },
    }  # fmt: skip
    assert set(changes) <= set(run), changes
    return run | changes
