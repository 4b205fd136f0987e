"""What a figure needs beside it to be repeated: commit, machine, versions."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

DISTRIBUTIONS = ("fastapi", "numpy", "onnxruntime", "pillow", "uvicorn", "uvloop")


def recipe() -> dict[str, Any]:
    """The commit (and whether files differ from it), the hardware, the versions and how busy the machine already was."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "hardware": {"cpu": _cpu_model(), "cores": os.cpu_count(), "machine": platform.machine()},
        "load_average_before": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in DISTRIBUTIONS}},
    }


def _git(*arguments: str) -> str:
    """What git says, or "" outside a repository."""
    ran = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return ran.stdout.strip()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
