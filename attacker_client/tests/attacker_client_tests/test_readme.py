"""The README is true: its attack works, its list of files is complete, its options and attacks are those that there are."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import attacker_client
from attacker_client import attacks
from attacker_client.attacks import ATTACKS, WRAPPERS
from attacker_client.cli import app

from .attacks.scenes import ScriptedBuyer, scene

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PACKAGE = Path(attacker_client.__file__).parent


@pytest.mark.anyio
async def test_the_added_attack_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file as it stands there is an attack of the table: built by its name and options, it spends what they say."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    module = ModuleType("first_images")
    monkeypatch.setitem(sys.modules, "first_images", module)
    exec(compile(code, "first_images.py", "exec"), module.__dict__)
    monkeypatch.setitem(ATTACKS, "first-images", module.FirstImages)
    buyer = ScriptedBuyer(budget=60)
    student = await attacks.build("voting:first-images", {"share": "0.5", "variants": "2"})(scene(buyer, tmp_path, epochs=1))
    assert student is not None and student.classes == 4
    assert buyer.left == 30


def test_all_files_are_listed() -> None:
    """The tree names every file of the package, and none that isn't there; attacks have the row of the table."""
    tree = README[README.index("## Files") :]
    named = set(re.findall(r"\b[\w]+\.(?:py|html)\b", tree))
    there = {file.name for file in PACKAGE.glob("*.*") if file.name != "__init__.py"} | {"__init__.py"}
    assert named - {"attack.py", "clusters.py", "rewards.py"} == there
    assert all((PACKAGE / "attacks" / name).exists() for name in ("attack.py", "clusters.py", "rewards.py"))


def test_all_abilities_are_listed() -> None:
    """Every attack, wrapper, command and option of `run` is there, and `list` says what the table does."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    options = {name for option in commands["run"].params for name in option.opts if name.startswith("--")}
    for name in (*ATTACKS, *WRAPPERS, *options):
        assert f"`{name}" in README or f" {name}" in README, name
    assert all(f"| `{name}" in README for name in commands)
    listed = CliRunner().invoke(app, ["list"], env={"COLUMNS": "200"}).output
    assert all(name in listed for name in (*ATTACKS, *WRAPPERS))
