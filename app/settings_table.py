"""The table of all settings: `cloneguard config --markdown > docs/settings.md`."""

from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from app.profiles import PROFILES
from app.settings import Settings

HEAD = """# Settings

Made by `cloneguard config --markdown`. A value comes from the first place that says one:

1. the command line: `cloneguard serve --set section.key=value` (repeatable; `none` where a key may be empty),
2. the environment: `CLONEGUARD_SECTION__KEY=value`,
3. a TOML file: `cloneguard serve --config FILE`, with a table a section,
4. the profile: `cloneguard serve --profile NAME`,
5. the default.

`cloneguard config --profile NAME` prints what is in force. An unknown key or an impossible value ends the start with exit code 2.
A column of a profile is empty where it keeps the default.

"""


def settings_table() -> str:
    """Every key with its meaning, its default and its value in each profile, as Markdown."""
    columns = ["setting", "meaning", "default", *PROFILES]
    rows = [columns, ["---"] * len(columns)]
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            for key, setting in section.model_fields.items():
                values = [_shown(values.get(name, {}).get(key, PydanticUndefined)) for values in PROFILES.values()]
                rows.append([f"`{name}.{key}`", str(setting.description), _shown(setting.default), *values])
        else:
            rows.append([f"`{name}`", str(field.description), _shown(field.default), *[""] * len(PROFILES)])
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _shown(value: Any) -> str:  # noqa: PLR0911, one return a kind of value
    if value is PydanticUndefined:
        return ""
    if isinstance(value, Enum):
        value = value.value
    match value:
        case None:
            return "none"
        case "":
            return "(empty)"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(map(str, value)) or "none"
    return str(value)
