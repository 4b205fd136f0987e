"""What decides what is asked, noted beside the answers: a folder holds the answers to one plan."""

import json
from pathlib import Path
from typing import Any

from app.recognizers.asked import RecognizerError

PLAN = "plan.json"


def noted(folder: Path, kind: str, **decided: Any) -> dict[str, Any]:
    """Note what was decided; returns all that is noted so far. Raises RecognizerError where the folder holds a `kind` with another plan."""
    kept = folder / PLAN
    try:
        before = dict(json.loads(kept.read_bytes())) if kept.exists() else {}
    except (ValueError, TypeError) as error:
        raise RecognizerError(f"{kept} is damaged: give another --out ({error!r})") from error
    if changed := [name for name, value in decided.items() if before.get(name, value) != value]:
        raise RecognizerError(f"{folder} holds another {kind}: {', '.join(changed)} differ; give another --out")
    plan = before | decided
    unfinished = kept.with_suffix(".partial")
    unfinished.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(kept)
    return plan
