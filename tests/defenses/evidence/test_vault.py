"""The vault keeps who was told what, and shows when somebody else has written in it."""

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from defenses.evidence.trigger import Trigger, TriggerError
from defenses.evidence.vault import Vault
from defenses.stores.protocol import StoreError
from tests.defenses.evidence.triggers import KEY, picture, seen, triggers_of, variant


def filled(path: Path, count: int = 6) -> Vault:
    """A vault with triggers of pictures 0 .. count - 1."""
    vault = Vault(path, key=KEY)
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
    with Vault(tmp_path / "evidence.db") as vault:
        triggers = triggers_of(vault)
        assert triggers == [seen(number)[0] for number in range(6)]
        for number, trigger in enumerate(triggers):
            pixels = vault.pixels(trigger.image)
            assert pixels is not None and np.array_equal(pixels, picture(number))
        assert vault.clients(limit=5) == {"alice": 6} and vault.size()[0] == 6 and vault.size()[1] > 0


def test_one_neighbourhood_is_one_trigger_of_a_client(tmp_path: Path) -> None:
    """Asking again, or about a variant, adds nothing; another client's answer does."""
    with filled(tmp_path / "evidence.db", 1) as vault:
        trigger, pixels = seen(0)
        head = vault.head()
        assert vault.append([(trigger, pixels), variant(trigger, 9)]) == 0 and vault.head() == head
        assert vault.append([seen(0, client="bob")]) == 1
        assert vault.clients(limit=1) == {"alice": 1} and vault.clients(limit=5) == {"alice": 1, "bob": 1}
        assert vault.append([(replace(trigger, told=7), pixels)]) == 1  # the policy has changed: another label is another trigger


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
        vault.kept()


def test_who_does_not_know_the_secret_can_add_nothing(tmp_path: Path) -> None:
    """A chain can be continued by anybody who can write the file; a seal can't be made."""
    path = tmp_path / "evidence.db"
    filled(path, 3).close()
    with Vault(path, key=b"another key, of whoever can write the file") as forger:
        forger.append([seen(7, client="enemy")])
    with Vault(path) as vault:
        assert len(vault.kept()) == 4  # the chain alone is whole
        with pytest.raises(StoreError, match="trigger 4 is not sealed with our secret"):
            vault.kept(key=KEY)


def test_a_copy_is_the_vault_of_one_moment(tmp_path: Path) -> None:
    """Everything is in it, for its owner alone, and it does not grow with the vault."""
    with filled(tmp_path / "evidence.db", 3) as vault:
        vault.copy_to(tmp_path / "copy.db")
        vault.append([seen(7)])
        with Vault(tmp_path / "copy.db") as copy:
            assert [one.link for one in copy.kept(key=KEY)] == [one.link for one in vault.kept()[:3]]
            assert copy.images() < vault.images()
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600


def test_a_picture_that_was_cleared_away_comes_back_with_the_next_answer(tmp_path: Path) -> None:
    """The trigger stays the one that was committed to."""
    with filled(tmp_path / "evidence.db", 2) as vault:
        head = vault.head()
        vault.forget(before=0.0, most_bytes=0)
        assert vault.images() == frozenset()
        trigger, pixels = seen(1)
        assert vault.append([(trigger, pixels)]) == 0 and vault.head() == head
        assert vault.images() == {trigger.image}


def test_another_picture_is_not_taken_for_the_one_that_was_committed_to(tmp_path: Path) -> None:
    """A picture is its digest's or it is none."""
    with filled(tmp_path / "evidence.db", 2) as vault:
        first, second = triggers_of(vault)
        edited(
            tmp_path / "evidence.db", "UPDATE images SET file = (SELECT file FROM images WHERE digest = ?) WHERE digest = ?",
            bytes.fromhex(first.image), bytes.fromhex(second.image),
        )  # fmt: skip
        with pytest.raises(StoreError, match="is not the one that was committed to"):
            vault.pixels(second.image)
        edited(tmp_path / "evidence.db", "UPDATE images SET file = ? WHERE digest = ?", b"\x89PNG", bytes.fromhex(second.image))
        with pytest.raises(StoreError, match="can't be read"):
            vault.pixels(second.image)


def test_what_is_too_old_is_forgotten_and_the_chain_stays_whole(tmp_path: Path) -> None:
    """Client, image and label go, the commitment stays: what comes after can still be checked."""
    with filled(tmp_path / "evidence.db") as vault:
        _, head = vault.head()
        first = triggers_of(vault)[0]
        vault.forget(before=4.0, most_bytes=2**30)
        assert [trigger.request_id for trigger in triggers_of(vault)] == ["q4", "q5"] and vault.kept()[-1].link == head
        assert vault.pixels(first.image) is None and vault.clients(limit=5) == {"alice": 2}
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
        most = vault.size()[1] // 3
        vault.forget(before=0.0, most_bytes=most)
        assert 0.5 * most < vault.size()[1] <= most
        images = vault.images()
        kept = {
            client: [t.request_id for t in triggers_of(vault) if t.client == client and t.image in images] for client in ("alice", "flood")
        }
        assert len(kept["alice"]) == 4 and 0 < len(kept["flood"]) < 50
        ages = [int(request[1:]) for request in kept["flood"]]
        assert min(ages) < 30 and max(ages) > 40  # of every age some: old answers can't be buried under new ones
        vault.forget(before=0.0, most_bytes=0)
        assert vault.size() == (54, 0)


def test_replicas_share_a_vault(tmp_path: Path) -> None:
    """Two processes' worth of writers: one chain, nothing lost, nothing twice."""

    def write(client: str) -> None:
        with Vault(tmp_path / "evidence.db", key=KEY) as vault:
            for number in range(40):
                vault.append([seen(number, client=client)])

    threads = [threading.Thread(target=write, args=(client,)) for client in ("alice", "bob", "carol")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Vault(tmp_path / "evidence.db") as vault:
        assert vault.clients(limit=5) == {"alice": 40, "bob": 40, "carol": 40} and len(vault.kept(key=KEY)) == 120


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
