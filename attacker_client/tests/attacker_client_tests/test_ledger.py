"""The ledger keeps what was bought, and belongs to one campaign and one process."""

import sqlite3
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from attacker_client.costs import Tally
from attacker_client.errors import LedgerError
from attacker_client.ledger import Ledger
from attacker_client.wire import Entry, OracleAnswer

CAMPAIGN = {"target": "http://127.0.0.1:8000/predict", "attack": "standard", "seed": 0}
ANSWER = OracleAnswer("q1", "toy 1", (Entry("cat", 3, 0.1 + 0.2), Entry("dog", 5, None)))


def digest(n: int) -> bytes:
    return sha256(str(n).encode()).digest()


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    """An answer survives the process to the last bit, with its class names and what it cost."""
    path = tmp_path / "new" / "ledger.sqlite"
    with Ledger.open(path, CAMPAIGN, resume=False) as ledger:
        for n in range(3):
            ledger.intend(digest(n), purpose="attack", identity="a")
        ledger.answered(digest(0), ANSWER, Tally(3, 1, 30, 40, 2, 1.5), purpose="attack")
        ledger.failed(digest(1), "bad", Tally(1, 0, 10, 5))
        ledger.remember("seconds", 12.5)
    with Ledger.open(path, CAMPAIGN, resume=True) as ledger:
        assert ledger.known([digest(n) for n in range(4)]) == {digest(0): ("attack", ANSWER), digest(1): ("attack", None)}
        assert dict(ledger.labels) == {3: "cat", 5: "dog"}
        assert (ledger.bought("attack"), ledger.bought("evaluation")) == (1, 0)
        assert (ledger.uncertain("attack"), ledger.bad_images("attack")) == (1, 1)
        assert ledger.tally("attack") == Tally(5, 1, 40, 45, 2, 1.5)
        assert ledger.fact("seconds") == 12.5


def test_an_existing_ledger_is_not_gone_on_with_by_accident(tmp_path: Path) -> None:
    """Without `resume` a file that is there is an error; with it, one that isn't there is begun."""
    path = tmp_path / "ledger.sqlite"
    Ledger.open(path, CAMPAIGN, resume=True).__exit__(None, None, None)
    with pytest.raises(LedgerError, match="--resume"):
        Ledger.open(path, CAMPAIGN, resume=False)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seed": 1}, "seed is 1 and was 0"),
        ({"attack": "probe"}, "attack is 'probe' and was 'standard'"),
        ({"more": 2}, "more is 2 and was None"),
    ],
)
def test_another_campaign_is_refused(tmp_path: Path, change: dict[str, object], text: str) -> None:
    """A ledger of another target, attack or seed names what differs."""
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path, CAMPAIGN, resume=False):
        pass
    with pytest.raises(LedgerError, match=text):
        Ledger.open(path, CAMPAIGN | change, resume=True)
    with Ledger.open(path, CAMPAIGN, resume=True):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A second process is refused while the first has the ledger open: both would buy the same."""
    path = tmp_path / "ledger.sqlite"
    code = (
        "import sys; from pathlib import Path; from attacker_client.ledger import Ledger; Ledger.open(Path(sys.argv[1]), {}, resume=True)"
    )
    with Ledger.open(path, {}, resume=False):
        second = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "LedgerError" in second.stderr
    assert "locked" in second.stderr


def test_what_is_no_ledger(tmp_path: Path) -> None:
    """Another kind of file is refused and left as it is."""
    path = tmp_path / "ledger.sqlite"
    path.write_text("a shopping list, which is no database at all\n" * 20)
    with pytest.raises(LedgerError):
        Ledger.open(path, CAMPAIGN, resume=True)
    assert path.read_text().startswith("a shopping list")


def test_a_transaction_that_was_not_committed_is_lost_whole(tmp_path: Path) -> None:
    """A process that dies before `commit` leaves what it wrote before the last one, and nothing of what it wrote after."""
    path = tmp_path / "ledger.sqlite"
    code = (
        "import os, sys; from pathlib import Path; from attacker_client.ledger import Ledger; ledger = Ledger.open(Path(sys.argv[1]), {},"
        " resume=False); ledger.intend(b'1', purpose='attack', identity='a'); ledger.commit();"
        " ledger.intend(b'2', purpose='attack', identity='a'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    with Ledger.open(path, {}, resume=True) as ledger:
        assert ledger.uncertain("attack") == 1


def test_a_ledger_of_other_files_is_refused(tmp_path: Path) -> None:
    """A ledger that an earlier version began holds digests of other files: nothing that it bought would be found."""
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path, CAMPAIGN, resume=False):
        pass
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 0")
    database.close()
    with pytest.raises(LedgerError, match="another version"):
        Ledger.open(path, CAMPAIGN, resume=True)


def test_many_answers(tmp_path: Path) -> None:
    """Look-ups beyond SQLite's bound on parameters are cut into blocks, and unknown digests are left out."""
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path, CAMPAIGN, resume=False):
        pass
    with sqlite3.connect(path) as database:
        told = '{"id": "", "model": "m", "class_ids": [0], "scores": [1.0]}'
        database.execute("INSERT INTO labels VALUES (0, 'cat')")
        rows = [(digest(n), "attack", "a", "answered", 0.0, told) for n in range(40_000)]
        database.executemany("INSERT INTO queries (digest, purpose, identity, state, sent_at, answer) VALUES (?, ?, ?, ?, ?, ?)", rows)
    database.close()
    with Ledger.open(path, CAMPAIGN, resume=True) as ledger:
        found = ledger.known([digest(n) for n in range(20_000, 60_000)])
    assert set(found) == {digest(n) for n in range(20_000, 40_000)}
