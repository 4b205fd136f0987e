"""One run at a time in a folder of kept answers: two would write the same files."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.recognizers.asked import RecognizerError

LOCK = "lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make the folder, and hold it until the end, or until the process dies. Raises RecognizerError where another run holds it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is kept there are customers' pictures and names
    with (folder / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecognizerError(f"{folder} is in use by another run: wait for its end, or give another --out") from error
        yield
