"""Store URLs."""

from pathlib import Path

import pytest

from defenses.stores import open_store
from defenses.stores.protocol import StoreError

pytestmark = pytest.mark.anyio


async def test_three_slashes_are_relative_and_four_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path after three slashes starts at the working directory, after four at the root."""
    monkeypatch.chdir(tmp_path)
    for url, path in {"sqlite:///a/one.db": tmp_path / "a" / "one.db", f"sqlite:///{tmp_path}/two.db": tmp_path / "two.db"}.items():
        assert not path.exists()
        store = await open_store(url, index="cifar10@1", audit_key=b"k")
        await store.close()
        assert path.is_file()


@pytest.mark.parametrize("url", ["", "store.db", "sqlite://store.db", "sqlite:///", "sqlite:///folder/", "postgres://:hunter2@host/db"])
async def test_other_urls_are_refused_with_what_is_supported(url: str) -> None:
    """One line names the forms that work, and does not repeat the URL, in which a password may stand."""
    with pytest.raises(StoreError, match=r"\A[^\n]*sqlite:///relative/path\.db or sqlite:////absolute/path\.db[^\n]*\Z") as refusal:
        await open_store(url, index="cifar10@1", audit_key=b"k")
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("radius", [-1, 8])
async def test_a_radius_that_is_not_exact_is_refused_at_once(tmp_path: Path, radius: int) -> None:
    """64 perceptual bits are searched exactly up to radius 7; a wider one fails at the start and not at the first query."""
    with pytest.raises(StoreError, match="searched exactly up to 7"):
        await open_store(f"sqlite:///{tmp_path}/store.db", index="cifar10@1", audit_key=b"k", perceptual_radius=radius)
