"""Evidence is written behind the answers: what was marked is kept, and what can't be kept is counted."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from defenses.evidence import writer
from defenses.evidence.remembering import RememberWatermarks
from defenses.evidence.trigger import Trigger
from defenses.evidence.vault import Vault
from defenses.evidence.writer import CONTROLS, EvidenceWriter
from defenses.misrecognition import IntentionalMisrecognition
from defenses.relabelling import Alteration, Relabelling
from defenses.truncation import OutputTruncation
from defenses.vocabulary import Case, Mode
from defenses.watermark import Watermark
from tests.defenses.cases import case_of
from tests.defenses.evidence.triggers import KEY, triggers_of

pytestmark = pytest.mark.anyio


@contextmanager
def writing(path: Path, **options: object) -> Iterator[EvidenceWriter]:
    """A writer that is closed at the end."""
    made = EvidenceWriter(path, key=KEY, **({"retention_seconds": 1e12, "most_bytes": 2**30} | options))  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


async def answered(case: Case, evidence: EvidenceWriter, *, rate: float, alteration: Alteration = Alteration.IMPERSONATION) -> Case:
    """Walk a case through the steps that watermark it."""
    watermark = Watermark(secret=b"s" * 32, model="m@1", rate=rate)
    relabelling = Relabelling(secret=b"s" * 32, model="m@1", alteration=alteration)
    steps = (
        IntentionalMisrecognition(
            secret=b"s" * 32, model="m@1", mode=Mode.OFF, rate=0, watermark_mode=Mode.ENFORCE, watermark=watermark, relabelling=relabelling
        ),
        OutputTruncation(mode=Mode.ENFORCE, top_k=1, decimals=None, labels_only=True),
        RememberWatermarks(evidence, watermark=watermark, relabelling=relabelling, model="m@1"),
    )
    for step in steps:
        case = await step(case)
    return case


def kept(path: Path) -> list[Trigger]:
    """What the vault holds."""
    with Vault(path) as vault:
        return triggers_of(vault)


def until(holds: Callable[[], bool]) -> None:
    """Wait for the writer's thread."""
    give_up = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.01)


async def test_who_was_told_a_marked_answer_is_in_the_vault(tmp_path: Path) -> None:
    """The marked rows and no others, with the label that left, the founder's honest one, and controls drawn alike."""
    case, path = case_of(400, clients=("alice", "bob")), tmp_path / "evidence.db"
    with writing(path) as evidence:
        done = await answered(case, evidence, rate=0.1)
    assert done.answer is not None
    marked = [row for row, reason in enumerate(done.reasons) if reason]
    triggers = {trigger.request_id: trigger for trigger in kept(path)}
    assert 20 <= len(marked) <= 60 and set(triggers) == {case.queries[row].id for row in marked}
    for row in marked:
        trigger = triggers[case.queries[row].id]
        assert (trigger.client, trigger.image) == (case.queries[row].client, case.queries[row].digest.hex())
        assert trigger.told == done.answer.class_ids[row, 0] != trigger.honest == case.scores[row].argmax()
        assert len(trigger.controls) == CONTROLS and trigger.honest not in trigger.controls
    controls = np.array([trigger.controls for trigger in triggers.values()])
    own = np.array([[trigger.told] for trigger in triggers.values()])
    assert 0.02 < (controls == own).mean() < 0.25  # 1 in 9 by chance


async def test_a_label_that_would_be_told_under_any_key_is_matched_by_every_control(tmp_path: Path) -> None:
    """Where the wrong class is always the second best, honest recognizers tell it too: the controls say that it shows nothing."""
    path = tmp_path / "evidence.db"
    with writing(path) as evidence:
        await answered(case_of(50), evidence, rate=1.0, alteration=Alteration.SECOND_CLASS)
    triggers = kept(path)
    assert len(triggers) == 50 and all(set(trigger.controls) == {trigger.told} for trigger in triggers)


async def test_an_answer_with_the_right_label_is_no_evidence(tmp_path: Path) -> None:
    """Where an alteration keeps the label nothing is kept."""
    path = tmp_path / "evidence.db"
    with writing(path) as evidence:
        await answered(case_of(50), evidence, rate=1.0, alteration=Alteration.KEEP_TOP)
    assert kept(path) == []


async def test_answers_go_on_while_the_vault_cannot_be_written(tmp_path: Path) -> None:
    """What is marked waits and is written later; degraded says so meanwhile."""
    path = tmp_path / "evidence.db"
    counted: list[int] = []
    with writing(path, on_kept=counted.append) as evidence:
        other = sqlite3.connect(path, isolation_level=None)
        evidence._vault._connection.execute("PRAGMA busy_timeout = 10")
        other.execute("BEGIN IMMEDIATE")
        await answered(case_of(5), evidence, rate=1.0)
        until(lambda: evidence.degraded)
        other.execute("ROLLBACK")
        until(lambda: sum(counted) == 5)
        until(lambda: not evidence.degraded)
        other.close()
    assert len(kept(path)) == 5


async def test_what_finds_no_room_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go, and what is left at the end of an outage that did not end."""
    monkeypatch.setattr(writer, "MOST_WAITING", 10)
    path = tmp_path / "evidence.db"
    dropped: list[int] = []
    with writing(path, on_dropped=dropped.append) as evidence:
        other = sqlite3.connect(path, isolation_level=None)
        evidence._vault._connection.execute("PRAGMA busy_timeout = 10")
        other.execute("BEGIN IMMEDIATE")
        await answered(case_of(25), evidence, rate=1.0)
        assert sum(dropped) == 15
    assert sum(dropped) == 25
    other.close()


async def test_the_writer_forgets(tmp_path: Path) -> None:
    """What is older than the retention is gone at the next clearing."""
    path, now = tmp_path / "evidence.db", [1e9]
    with writing(path, clock=lambda: now[0], retention_seconds=1_000.0) as evidence:
        await answered(case_of(5), evidence, rate=1.0)
        until(lambda: len(kept(path)) == 5)
        now[0] += 1_002.5  # the case's queries came a second apart
        until(lambda: len(kept(path)) == 2)


async def test_asking_again_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the time that a thousandth answer takes would tell that it is marked: what was told is worked out and written once."""
    worked_out: list[str] = []
    own = writer.Marked.trigger

    def noted(marked: writer.Marked) -> Trigger | None:
        worked_out.append(marked.query.id)
        return own(marked)

    monkeypatch.setattr(writer.Marked, "trigger", noted)
    path = tmp_path / "evidence.db"
    counted: list[int] = []
    with writing(path, on_kept=counted.append) as evidence:
        for _ in range(20):
            await answered(case_of(5), evidence, rate=1.0)
    assert len(worked_out) == 5 == sum(counted)


async def test_one_answer_that_cannot_be_worked_out_does_not_end_the_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised is said, degraded, and tried again."""
    path = tmp_path / "evidence.db"
    counted: list[int] = []
    own = writer.Marked.trigger

    def broken(_: writer.Marked) -> Trigger:
        raise ValueError("nobody expected this")

    with writing(path, on_kept=counted.append) as evidence:
        monkeypatch.setattr(writer.Marked, "trigger", broken)
        await answered(case_of(5), evidence, rate=1.0)
        until(lambda: evidence.degraded)
        monkeypatch.setattr(writer.Marked, "trigger", own)
        until(lambda: sum(counted) == 5)
