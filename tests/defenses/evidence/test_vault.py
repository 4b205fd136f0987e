"""The vault keeps who was told what, and shows when somebody else has written in it."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from defenses.evidence.trigger import Trigger, TriggerError
from defenses.evidence.vault import GENESIS, Vault
from defenses.stores.protocol import StoreError
from tests.defenses.evidence.triggers import picture, seen, variant


def filled(path: Path, count: int = 6) -> Vault:
    """A vault with triggers of pictures 0 .. count - 1."""
    vault = Vault(path)
    assert vault.append([seen(number) for number in range(count)]) == count
    return vault


def edited(path: Path, statement: str, *values: object) -> None:
    """Somebody with the file and without scruples."""
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    """Triggers in order and pictures to the pixel, from a file that only its owner may read."""
    with filled(tmp_path / "evidence.db"):
        pass
    assert (tmp_path / "evidence.db").stat().st_mode & 0o777 == 0o600
    with Vault(tmp_path / "evidence.db", read_only=True) as vault:
        triggers = vault.triggers()
        assert triggers == [seen(number)[0] for number in range(6)]
        for number, trigger in enumerate(triggers):
            pixels = vault.pixels(trigger)
            assert pixels is not None and np.array_equal(pixels, picture(number))
        assert vault.clients() == {"alice": 6} and vault.size() > 0


def test_one_neighbourhood_is_one_trigger_of_a_client(tmp_path: Path) -> None:
    """Asking again, or about a variant, adds nothing; another client's answer does."""
    with filled(tmp_path / "evidence.db", 1) as vault:
        trigger, pixels = seen(0)
        head = vault.head()
        assert vault.append([(trigger, pixels), variant(trigger, 9)]) == 0 and vault.head() == head
        assert vault.append([seen(0, client="bob")]) == 1
        assert vault.clients() == {"alice": 1, "bob": 1}


EDITS: dict[str, tuple[str, tuple[object, ...]]] = {
    "another label": ("UPDATE triggers SET body = ? WHERE sequence = 3", (seen(2, client="bob")[0].to_json(),)),
    "another commitment": ("UPDATE triggers SET commitment = ? WHERE sequence = 3", (bytes(32),)),
    "a record less": ("DELETE FROM triggers WHERE sequence = 3", ()),
    "the first record less": ("DELETE FROM triggers WHERE sequence = 1", ()),
    "another order": ("UPDATE triggers SET sequence = 100 WHERE sequence = 3", ()),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_breaks_the_chain(tmp_path: Path, edit: str) -> None:
    """Whatever is changed, the first record that does not fit is named."""
    filled(tmp_path / "evidence.db").close()
    statement, values = EDITS[edit]
    edited(tmp_path / "evidence.db", statement, *values)
    with Vault(tmp_path / "evidence.db") as vault, pytest.raises(StoreError, match=r"trigger \d does not fit the chain"):
        vault.triggers()


def test_what_was_invented_later_is_not_under_an_earlier_head(tmp_path: Path) -> None:
    """Up to a head that was handed out, the triggers are those of that day; a vault that was made anew does not have it."""
    with filled(tmp_path / "evidence.db", 3) as vault:
        _, head = vault.head()
        vault.append([seen(7)])
        assert [trigger.request_id for trigger in vault.triggers(until=head)] == ["q0", "q1", "q2"]
        assert len(vault.triggers()) == 4 and vault.triggers(until=GENESIS) == []
    with Vault(tmp_path / "anew.db") as forged:
        forged.append([seen(number, client="bob") for number in range(3)])
        with pytest.raises(StoreError, match="no trigger has the link"):
            forged.triggers(until=head)


def test_another_picture_is_not_taken_for_the_one_that_was_committed_to(tmp_path: Path) -> None:
    """A picture is its digest's or it is none."""
    with filled(tmp_path / "evidence.db", 2) as vault:
        first, second = vault.triggers()
        edited(
            tmp_path / "evidence.db", "UPDATE images SET file = (SELECT file FROM images WHERE digest = ?) WHERE digest = ?",
            bytes.fromhex(first.image), bytes.fromhex(second.image),
        )  # fmt: skip
        with pytest.raises(StoreError, match="is not the one that was committed to"):
            vault.pixels(second)
        edited(tmp_path / "evidence.db", "UPDATE images SET file = ? WHERE digest = ?", b"\x89PNG", bytes.fromhex(second.image))
        with pytest.raises(StoreError, match="can't be read"):
            vault.pixels(second)


def test_what_is_too_old_is_forgotten_and_the_chain_stays_whole(tmp_path: Path) -> None:
    """Client, image and label go, the commitment stays: what comes after can still be checked."""
    with filled(tmp_path / "evidence.db") as vault:
        _, head = vault.head()
        first = vault.triggers()[0]
        vault.forget(before=4.0, most_bytes=2**30)
        assert [trigger.request_id for trigger in vault.triggers(until=head)] == ["q4", "q5"]
        assert vault.pixels(first) is None and vault.clients() == {"alice": 2}
        assert vault.append([seen(0)]) == 1  # told again, it is evidence again
    assert b"q0" not in vacuumed(tmp_path / "evidence.db", keep="q4")


def vacuumed(path: Path, *, keep: str) -> bytes:
    """The file's bytes without what SQLite has freed, and without the newest record."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("DELETE FROM triggers WHERE sequence = 7")
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = path.read_bytes()
    assert keep.encode() in content
    return content


def test_nobody_pushes_another_clients_evidence_out(tmp_path: Path) -> None:
    """Above the size that is allowed, who has most loses the oldest images; triggers stay committed to."""
    with filled(tmp_path / "evidence.db", 4) as vault:
        vault.append([seen(number, client="flood") for number in range(10, 60)])
        most = vault.size() // 3
        vault.forget(before=0.0, most_bytes=most)
        assert 0.5 * most < vault.size() <= most
        kept = {
            client: [t.request_id for t in vault.triggers() if t.client == client and vault.pixels(t) is not None]
            for client in vault.clients()
        }
        assert len(kept["alice"]) == 4 and 0 < len(kept["flood"]) < 50 and kept["flood"][-1] == "q59"
        vault.forget(before=0.0, most_bytes=0)
        assert vault.size() == 0 and len(vault.triggers()) == 54


def test_replicas_share_a_vault(tmp_path: Path) -> None:
    """Two processes' worth of writers: one chain, nothing lost, nothing twice."""

    def write(client: str) -> None:
        with Vault(tmp_path / "evidence.db") as vault:
            for number in range(40):
                vault.append([seen(number, client=client)])

    threads = [threading.Thread(target=write, args=(client,)) for client in ("alice", "bob", "carol")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Vault(tmp_path / "evidence.db") as vault:
        assert vault.clients() == {"alice": 40, "bob": 40, "carol": 40} and len(vault.triggers()) == 120


def edited_version(path: Path) -> None:
    """A file of a later release."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.write_bytes(b"no database, whatever it is called"), edited_version],
    ids=["garbage", "version"],
)
def test_what_is_no_vault_is_said_in_one_line(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """A StoreError that names the file."""
    filled(tmp_path / "evidence.db", 1).close()
    damage(tmp_path / "evidence.db")
    with pytest.raises(StoreError, match=r"evidence\.db"):
        Vault(tmp_path / "evidence.db")


def test_only_triggers_are_read_as_triggers() -> None:
    """A trigger survives its bytes; anything else is a TriggerError."""
    trigger, _ = seen(0)
    assert Trigger.from_json(trigger.to_json()) == trigger
    for body in (b"", b"[]", b"{}", trigger.to_json().replace(b'"told":5', b'"told":"5"'), trigger.to_json()[:-1]):
        with pytest.raises(TriggerError):
            Trigger.from_json(body)
