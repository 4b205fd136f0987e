"""A campaign is run once, goes on after an interruption, and is counted by the server."""

import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import t  # type: ignore[import-untyped]  # ships no types

from benchmarks.campaigns import OPEN, Plan, Victim, pool_of, run
from benchmarks.publishing import over_seeds
from models.tiny_imagenet import KNOWN
from tests.benchmarks.small_data import POOL, TEST, write_data

PLAN = Plan(victim="cifar10", server=("--profile", "balanced"), attack="standard", budget=40, epochs=1, evaluation=10)


def test_campaign_is_kept(tmp_path: Path) -> None:
    """The server counts what the thief bought and not what measured him; a finished campaign needs neither server nor images again."""
    row = run(PLAN, data=write_data(tmp_path / "data"), out=tmp_path / "out")
    assert row["queries_answered"] == row["server_counted"]["queries"] == 40
    assert 0 < row["server_counted"]["ood"] <= 40  # blobs of colour are no photographs
    assert row["accuracy"]["n"] == 2 * TEST
    assert row["model"]["accuracy"] > 0.9
    assert run(PLAN, data=tmp_path / "nowhere", out=tmp_path / "out") == row


def test_killed_client_goes_on(tmp_path: Path) -> None:
    """After a kill -9 of the client and an end of the server, the same plan goes on against the same address and buys what was missing."""
    plan = replace(PLAN, server=OPEN, budget=POOL - 20)
    data, folder = write_data(tmp_path / "data"), tmp_path / "out" / plan.folder
    with Victim(folder / "state", *plan.server) as server:
        url = server.url
        with (folder / "client.log").open("wb") as log:
            client = subprocess.Popen(
                plan.client(url, data=data, out=folder / "campaign", resume=False), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        while client.poll() is None and server.metric("cloneguard_queries_total", outcome="answered") < 10:
            time.sleep(0.005)
        client.kill()
        client.wait()
        before = server.metric("cloneguard_queries_total", outcome="answered")
    row = run(plan, data=data, out=tmp_path / "out")
    with Victim(folder / "state", *plan.server) as server:
        assert server.url == url
    assert before >= 10
    assert row["queries_answered"] == plan.budget
    assert 0 <= row["server_counted"]["queries"] - plan.budget <= 32  # what was under way at the kill


def test_client_that_gives_up_is_told(tmp_path: Path) -> None:
    """A client that can't begin ends the run with its own words, and nothing is kept as finished."""
    write_data(tmp_path / "data")
    plan = replace(PLAN, options=("colour=blue",))
    with pytest.raises(RuntimeError, match="colour"):
        run(plan, data=tmp_path / "data", out=tmp_path / "out")
    assert not (tmp_path / "out" / plan.folder / "result.json").exists()


def test_folders_tell_plans_apart() -> None:
    """Whatever decides the outcome decides the folder."""
    others = (replace(PLAN, server=OPEN), replace(PLAN, seed=1), replace(PLAN, images="unlearned"), replace(PLAN, options=("rounds=2",)))
    assert len({plan.folder for plan in (PLAN, *others)}) == 5
    assert replace(PLAN).folder == PLAN.folder


def test_unlearned_pool(tmp_path: Path) -> None:
    """The classes that CIFAR-10 knows are among those that its filter did not learn from, and the signs' filter did learn from them."""
    known = min(KNOWN)
    for name in (known, *(f"n9{number:07d}" for number in range(60))):
        (tmp_path / "data" / "tiny-imagenet-32" / "train" / name).mkdir(parents=True)
    pools = {victim: pool_of("unlearned", victim, tmp_path / "data", tmp_path / "pools") for victim in ("cifar10", "gtsrb")}
    names = {victim: {path.name for path in pool.iterdir()} for victim, pool in pools.items()}
    assert len(names["gtsrb"]) == 40
    assert names["cifar10"] == names["gtsrb"] | {known}
    assert pool_of("unlearned", "gtsrb", tmp_path / "data", tmp_path / "pools") == pools["gtsrb"]


def test_interval_over_seeds() -> None:
    """One seed keeps its own interval; three get Student's t interval of their mean."""
    one = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert over_seeds([one]) == one
    found = over_seeds([{"value": value, "low": 0, "high": 1} for value in (0.4, 0.5, 0.6)])
    assert found["value"] == pytest.approx(0.5)
    assert found["high"] - 0.5 == pytest.approx(0.5 - found["low"]) == pytest.approx(t.ppf(0.975, 2) * 0.1 / 3**0.5)
