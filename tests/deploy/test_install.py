"""The Makefile, the pins and the wheel's content: what a stranger's first command does."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECTS = (ROOT / "pyproject.toml", ROOT / "attacker_client" / "pyproject.toml")
UNPINNED_EXTRAS = {"gpu", "gpu-faiss"}  # they exist for machines with CUDA only, and follow its version
# In two halves, so that this file may be searched too.
REGISTRIES = re.compile("|".join(a + b for a, b in [("pypi", r"\.org"), ("python", "hosted"), ("download.py", r"torch\.org"), ("--extra", "-index"), ("--index", "-url"), ("docker", r"\.io"), ("ghcr", r"\.io"), ("quay", r"\.io"), ("npm", r"js\.org")]))  # fmt: skip # noqa: E501


def pins() -> dict[str, str]:
    """Every pinned version by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}


def requirements() -> list[Requirement]:
    """What the two distributions ask for, CUDA's extras excepted."""
    found: list[str] = []
    for path in PROJECTS:
        project: dict[str, Any] = tomllib.loads(path.read_text())["project"]
        found += project["dependencies"]
        for extra, wanted in project.get("optional-dependencies", {}).items():
            found += [] if extra in UNPINNED_EXTRAS else wanted
    own = "cloneguard["  # an extra that includes another one of ours
    return [Requirement(text) for text in found if not text.startswith(own)]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh checkout as far as make looks at it: no environment."""
    (tmp_path / "attacker_client").mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "attacker_client/pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make, whatever it ends with, as if no other make had started us: that one's variables are inherited otherwise."""
    ours = {"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "PYTHON", "EXTRA", "ARGS"}
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    return subprocess.run(["make", *arguments], cwd=directory, env=environment, check=False, capture_output=True, text=True, timeout=60)


def installed(directory: Path, *stamps: str) -> None:
    """Pretend that make installed these before."""
    (directory / ".venv" / "bin").mkdir(parents=True)
    (directory / ".venv" / "bin" / "python").touch()
    for stamp in stamps:
        (directory / ".venv" / f".installed-{stamp}").touch()


def test_constraints_are_versions_only() -> None:
    """Every line is name==version: no address, no marker, no comment."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!+]*", line), line


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_everything_asked_for_is_pinned(requirement: Requirement) -> None:
    """Each dependency of each extra has a pin, and the pin satisfies it."""
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_serve_installs_the_server_alone(checkout: Path) -> None:
    """`make serve` makes .venv, installs one extra with pins, and serves."""
    commands = make(checkout, "-n", "serve", "ARGS=--profile strict").stdout
    assert re.search(r"python3 -m venv \.venv", commands)
    assert "--quiet --disable-pip-version-check -c constraints.txt -e '.[cpu]'\n" in commands
    assert ".venv/bin/cloneguard serve --profile strict\n" in commands
    assert commands.count(" -e ") == 1
    assert "-e '.[gpu]'" in make(checkout, "-n", "serve", "EXTRA=gpu").stdout


def test_test_installs_everything_and_serves_from_it(checkout: Path) -> None:
    """`make test` installs both distributions; afterwards `make serve` has nothing left to install."""
    commands = make(checkout, "-n", "test").stdout
    assert "-e '.[cpu,train,test]' -e ./attacker_client\n" in commands
    assert "touch .venv/.installed-test .venv/.installed-cpu\n" in commands
    assert ".venv/bin/python -m pytest" in commands
    installed(checkout, "test", "cpu")
    assert make(checkout, "-n", "serve").stdout.split() == [".venv/bin/cloneguard", "serve"]
    assert "pip" not in make(checkout, "-n", "test").stdout


def test_changed_pins_are_installed_again(checkout: Path) -> None:
    """A stamp older than constraints.txt is no stamp."""
    installed(checkout, "cpu")
    stamp = (checkout / ".venv" / ".installed-cpu").stat().st_mtime
    assert "pip" not in make(checkout, "-n", "serve").stdout
    assert "pip install" in make(checkout, "-n", "serve", "-W", "constraints.txt").stdout
    assert (checkout / ".venv" / ".installed-cpu").stat().st_mtime == stamp


def test_an_old_python_is_one_clear_line(checkout: Path) -> None:
    """An interpreter that is too old, or not there, is named, and nothing is left behind."""
    old = checkout / "python3.10"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for python in (str(old), "no-such-python"):
        ended = make(checkout, "serve", f"PYTHON={python}")
        assert ended.returncode != 0
        first, *rest = ended.stderr.splitlines()
        assert first.startswith("Cloneguard needs Python 3.11 or newer")
        assert python in first
        assert all(line.startswith("make") for line in rest)
        assert not (checkout / ".venv").exists()


def test_help_lists_every_target(checkout: Path) -> None:
    """`make` alone says what there is."""
    targets = re.findall(r"^([a-z]+):.*##", (checkout / "Makefile").read_text(), re.MULTILINE)
    assert {"help", "serve", "demo", "test", "check", "bench", "abuse", "clean"} <= set(targets)
    shown = make(checkout).stdout
    assert all(re.search(rf"make {target} ", shown) for target in targets)


def test_no_tracked_file_names_a_registry() -> None:
    """Where packages and images come from is the user's configuration, never ours."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    named = {}
    for name in filter(None, listed.stdout.decode().split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in content and (found := REGISTRIES.search(content.decode(errors="replace"))):
            named[name] = found.group()
    assert named == {}
