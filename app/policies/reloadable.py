"""Which settings may change while the service runs, and how a profile and changes to it become settings."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from app.profiles import PROFILES, ProfileName
from app.settings import Section, Settings, SettingsError

Values = Mapping[str, Mapping[str, Any]]

# Radii belong to the index, and everything else to what was opened at start.
RELOADABLE: Final[Mapping[str, frozenset[str] | None]] = {
    "ood": None,
    "near_duplicates": frozenset({"mode"}),
    "misrecognition": None,
    "watermark": None,
    "suspicion": None,
    "truncation": None,
    "limits": None,
}
OF_NO_PROFILE: Final = frozenset({"limits"})


def with_values(started: Settings, *, profile: ProfileName, values: Values) -> Settings:
    """Settings under `profile` and, above it, `values`; what can't be reloaded, and what no profile says, is as `started` has it.

    Neither the command line's reloadable settings nor its profile count any more. Raises SettingsError.
    """
    sections: dict[str, Section] = {}
    for name in values:
        if name not in RELOADABLE:
            raise SettingsError(f"{name!r} can't be changed while the service runs; what can: {', '.join(RELOADABLE)}")
    for name, keys in RELOADABLE.items():
        section: Section = getattr(started, name)
        given = values.get(name, {})
        for key in given:
            if keys is not None and key not in keys:
                raise SettingsError(f"setting {name}.{key} can't be changed while the service runs")
        kept = {key: value for key, value in section if name in OF_NO_PROFILE or (keys is not None and key not in keys)}
        try:
            sections[name] = type(section).model_validate({**kept, **PROFILES[profile].get(name, {}), **given})
        except ValidationError as error:
            raise SettingsError(in_one_line(error, prefix=(name,))) from None
    return started.model_copy(update={**sections, "profile": profile})


def said(settings: Settings, *, started: Settings) -> dict[str, dict[str, Any]]:
    """The reloadable values that differ from what the settings' profile says, as JSON values: what a document has to tell."""
    plain = flat(with_values(started, profile=settings.profile, values={}))
    told: dict[str, dict[str, Any]] = {}
    for path, value in flat(settings).items():
        if value != plain[path]:
            section, _, key = path.partition(".")
            told.setdefault(section, {})[key] = value
    return told


def differences(old: Settings, new: Settings) -> dict[str, list[Any]]:
    """What a change does: `section.key` to the old and the new value."""
    before, after = flat(old), flat(new)
    profiles = {} if old.profile == new.profile else {"profile": [str(old.profile), str(new.profile)]}
    return {**profiles, **{path: [before[path], value] for path, value in after.items() if value != before[path]}}


def flat(settings: Settings) -> dict[str, Any]:
    """Every reloadable setting as `section.key`, in JSON values."""
    values: dict[str, Any] = {}
    for name, keys in RELOADABLE.items():
        section: BaseModel = getattr(settings, name)
        values |= {f"{name}.{key}": value for key, value in section.model_dump(mode="json").items() if keys is None or key in keys}
    return values


def in_one_line(error: ValidationError, *, prefix: tuple[str, ...] = ()) -> str:
    """The first thing that is wrong, with its place; what was given is not repeated: it may be long."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join([*prefix, *map(str, first["loc"])])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
