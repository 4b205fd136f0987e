"""Which of what vaults hold may accuse: nothing that somebody else was told too who can't be asked about it any more."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.evidence import Evidence, Secrets, accusing, copied
from app.pipeline import defence_steps
from app.settings import read_settings
from defenses.calibration import Calibration
from defenses.evidence.trigger import Trigger
from defenses.evidence.vault import Vault
from defenses.evidence.writer import EvidenceWriter
from defenses.stores.protocol import StoreError
from defenses.watermark import Watermark
from models import bundle as bundles
from tests.defenses.cases import case_of
from tests.defenses.evidence.triggers import KEY, seen

SECRETS = Secrets(seal=KEY, marks=b"m" * 32)


def vault(path: Path, *numbers: int, client: str = "alice", clear: bool = False) -> bytes:
    """A vault of what one client was told, and its head."""
    with Vault(path, key=KEY) as made:
        made.append([seen(number, client=client) for number in numbers])
        if clear:
            made.forget(before=0.0, most_bytes=0)
        return made.head()[1]


def evidence(vaults: Sequence[Path], **options: object) -> Evidence:
    """The evidence in vaults, without a secret."""
    return Evidence(vaults, **({"model": "m@1", "secrets": None, "labels": 10} | options))  # type: ignore[arg-type]


def requests(found: Evidence) -> dict[str, list[str]]:
    """By client, which requests accuse."""
    with found:
        return {client: [one.request_id for one in own] for client, own in found.triggers.items()}


def told(*clients: str, founder: str = "alice") -> list[Trigger]:
    """What clients were told about one neighbourhood."""
    return [replace(seen(1, client=client)[0], founder=founder) for client in clients]


def test_a_thief_of_whom_nothing_can_be_asked_leaves_nobody_accused() -> None:
    """Neither where his image is gone, nor where his trigger is and he founded the neighbourhood; variants of his own do not matter."""
    alice, bob = told("alice", "bob")
    assert accusing([(alice, True), (bob, True)]) == {"alice": [alice], "bob": [bob]}
    assert accusing([(alice, False), (bob, True)]) == {}
    assert accusing([(bob, True)]) == {}
    assert accusing([(alice, True), (replace(alice, told=7), False)]) == {"alice": [alice]}


def test_replicas_vaults_are_one_evidence(tmp_path: Path) -> None:
    """Triggers of all, each vault's head; what was cleared away in one accuses nobody in another."""
    vault(tmp_path / "a.db", 1, 2, 3)
    vault(tmp_path / "b.db", 4, client="alice")
    found = evidence([tmp_path / "a.db", tmp_path / "b.db"])
    assert found.heads["a.db"][0] == 3 and found.heads["b.db"][0] == 1 and not found.sealed
    assert requests(found) == {"alice": ["q1", "q2", "q3", "q4"]}
    vault(tmp_path / "c.db", 1, client="thief", clear=True)
    left = evidence([tmp_path / name for name in ("a.db", "b.db", "c.db")])
    assert left.left_out == 2 and requests(left) == {"alice": ["q2", "q3", "q4"]}


def test_what_came_after_the_heads_that_were_handed_out_accuses_nobody(tmp_path: Path) -> None:
    """One head a vault; a vault without one only explains; a head that is in none is none of ours."""
    first, second = vault(tmp_path / "a.db", 1, 2), vault(tmp_path / "b.db", 4)
    vault(tmp_path / "a.db", 3)
    both = [tmp_path / "a.db", tmp_path / "b.db"]
    assert requests(evidence(both, committed={first, second})) == {"alice": ["q1", "q2", "q4"]}
    assert requests(evidence(both, committed={first})) == {"alice": ["q1", "q2"]}
    with pytest.raises(StoreError, match="no trigger has the link"):
        evidence(both, committed={first, b"x" * 32})
    vault(tmp_path / "c.db", 1, client="thief")
    assert requests(evidence([*both, tmp_path / "c.db"], committed={first})) == {"alice": ["q2"]}


def test_a_copy_is_what_a_run_goes_on_with(tmp_path: Path) -> None:
    """Made once, whatever the server writes meanwhile; where there is nothing it says so."""
    vault(tmp_path / "a.db", 1)
    (copy,) = copied([tmp_path / "a.db"], tmp_path)
    before = evidence([copy])
    vault(tmp_path / "a.db", 2)
    again = evidence(copied([tmp_path / "a.db"], tmp_path))
    assert again.digest() == before.digest() != evidence([tmp_path / "a.db"]).digest()
    with pytest.raises(StoreError, match="no evidence in"):
        copied([tmp_path / "nothing.db"], tmp_path / "other")


def test_triggers_are_checked_with_the_secret(tmp_path: Path) -> None:
    """Sealed by us, but not what the secret marks, it is none; nor is one of classes that the recognizer does not have."""
    path = tmp_path / "a.db"
    marked = Watermark(secret=SECRETS.marks, model="m@1", rate=0.5)
    right = [n for n in range(40) if marked.chooses(bytes.fromhex(seen(n)[0].neighbourhood), founder="alice")]
    with Vault(path, key=KEY) as made:
        made.append([(replace(trigger, rate=0.5), pixels) for trigger, pixels in (seen(number) for number in right)])
    found = evidence([path], secrets=SECRETS)
    assert found.sealed and len(requests(found)["alice"]) == len(right)
    with pytest.raises(StoreError, match="classes that m@1 does not have"):
        evidence([path], labels=5)
    with pytest.raises(StoreError, match="not sealed with our secret"):
        evidence([path], secrets=replace(SECRETS, seal=b"another"))
    with pytest.raises(StoreError, match="none that our secret marks"):
        evidence([path], secrets=replace(SECRETS, marks=b"another"))
    with pytest.raises(StoreError, match="no watermarked answer of m@2"):
        evidence([path], model="m@2")


@pytest.mark.anyio
async def test_an_answer_that_could_not_be_recorded_leaves_no_evidence(tmp_path: Path) -> None:
    """Nobody got it: the audit log comes first, and a step that raises ends the way."""
    bundle = bundles.load("cifar10", device="cpu")
    settings = read_settings(profile="open", assignments=["watermark.mode=enforce", "watermark.rate=1"])
    with writing(tmp_path / "evidence.db") as evidence:
        for broken in (True, False):
            store: Any = AuditingStore(broken=broken)
            steps = defence_steps(
                settings,
                bundle=bundle,
                calibration=Calibration(),
                store=store,
                secret=b"s" * 32,
                on_dropped=lambda _: None,
                evidence=evidence,
            )
            assert list(steps)[-2:] == ["audit", "evidence"]
            case = case_of(5, seed=int(broken))
            try:
                for step in steps.values():
                    case = await step(case)
            except StoreError:
                assert broken
    with Vault(tmp_path / "evidence.db") as vault:
        assert len(vault.kept()) == 5


class AuditingStore:
    """A store that can write audit records, or can't."""

    def __init__(self, *, broken: bool) -> None:
        self.broken = broken

    async def append_audit(self, entries: Sequence[object]) -> None:
        """Take records."""
        if self.broken:
            raise StoreError(f"no room for {len(entries)} records")


@contextmanager
def writing(path: Path) -> Iterator[EvidenceWriter]:
    """A writer that is closed at the end."""
    evidence = EvidenceWriter(path, key=KEY, retention_seconds=1e12, most_bytes=2**30)
    try:
        yield evidence
    finally:
        evidence.close()
