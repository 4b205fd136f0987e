"""What thieves get is measured with a real server under each profile, and the best of them counts."""

import json
from pathlib import Path

import pytest

from benchmarks.theft import PLAIN, figures, main, reach, table
from tests.benchmarks.small_data import write_data

DENOISE = f"denoise:{PLAIN}"


def test_profiles_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`balanced` alters answers to foreign images and `open` none, by the servers' own counts; the second run reads what the first left."""
    monkeypatch.setenv("CLONEGUARD_DATA", str(write_data(tmp_path / "data")))
    command = ["--budget", "40", "--epochs", "1", "--evaluation", "10", "--profiles", "open", "balanced", "--attacks", PLAIN]
    command += ["--out", str(tmp_path / "out"), "--json", str(tmp_path / "theft.json")]
    main(command)
    written = json.loads((tmp_path / "theft.json").read_bytes())
    opened, balanced = (row["server_counted"] for row in written["figures"])
    assert opened["queries"] == balanced["queries"] == 40
    assert (opened["ood"], opened["altered"]) == (0, 0)
    assert balanced["ood"] > 0 < balanced["altered"]
    assert written["recipe"]["command"].startswith("CLONEGUARD_DATA=DIR python -m benchmarks.theft --epochs 1")
    assert str(tmp_path) not in written["recipe"]["command"]
    main(command)
    assert json.loads((tmp_path / "theft.json").read_bytes())["campaigns"] == written["campaigns"]


def test_the_best_thief_counts() -> None:
    """A profile that stops the plain thief and not the aware one is worth what the aware one gets."""
    rows = [
        row("open", PLAIN, 0.6), row("open", DENOISE, 0.5), row("balanced", PLAIN, 0.15), row("balanced", DENOISE, 0.4),
    ]  # fmt: skip
    found = figures(rows)
    assert [(one["profile"], one["attack"]) for one in found if one["worst"]] == [("open", PLAIN), ("balanced", DENOISE)]
    reached = reach(found)
    assert [met for _, _, met in reached.values()] == [True, True, False, True]
    assert [value for value, _, _ in reached.values()] == pytest.approx([0.6, 300, 0.4 / 0.6, 0.15 / 0.6])
    assert table(found, budget=5_000).row_count == 4


def row(profile: str, attack: str, accuracy: float) -> dict[str, object]:
    """A finished campaign."""
    share = {"value": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01}
    counted = {"queries": 5_000, "ood": 3_000, "near_duplicates": 10, "altered": 3_000}
    return {
        "server": ["--profile", profile], "attack": attack, "accuracy": share, "fidelity_to_reference_on_test": share,
        "model": {"accuracy": 0.91}, "server_counted": counted, "seconds": 300,
    }  # fmt: skip
