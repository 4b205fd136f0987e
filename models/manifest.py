"""The bundle's page: what is in a bundle directory and how its pictures are to be read, as bundle.json."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

FILE = "bundle.json"

Precision = Literal["fp32", "int8"]
Device = Literal["cpu", "cuda"]
Resize = Literal["stretch", "center_crop"]
Label = Annotated[str, StringConstraints(min_length=1)]
# A plain name in the bundle's own directory: a manifest from elsewhere must not make us read outside of it.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class BundleError(Exception):
    """A bundle, or a model that should become one, cannot be used; the text is one line that says what to do."""


class InputSpec(BaseModel):
    """How a picture becomes `size` x `size` pixels.

    `stretch` ignores the aspect ratio; `center_crop` resizes the shorter side to size / crop_fraction and cuts the centre.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=1, le=4096)
    resize: Resize = "stretch"
    crop_fraction: float = Field(default=1.0, gt=0.0, le=1.0)


class Manifest(BaseModel):
    """What bundle.json says. `recipe` and `measured` are free: they are published, and nothing is decided by them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]*$")]
    labels: tuple[Label, ...] = Field(min_length=2)
    input: InputSpec
    models: dict[Precision, FileName]
    default_precision: dict[Device, Precision]
    files: dict[FileName, Sha256]
    recipe: dict[str, Any] = Field(default_factory=dict)
    measured: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if "fp32" not in self.models:
            raise ValueError("models has no fp32 entry")
        if self.default_precision.keys() != {"cpu", "cuda"}:
            raise ValueError("default_precision needs cpu and cuda")
        for device, precision in self.default_precision.items():
            if precision not in self.models:
                raise ValueError(f"default_precision.{device} is {precision}, which models does not have")
        for name in self.models.values():
            if name not in self.files:
                raise ValueError(f"files has no sha256 of {name}")
        return self

    def save(self, directory: Path) -> None:
        """Write bundle.json, all of it or nothing: an interrupted save leaves the old one."""
        partial = directory / f"{FILE}.partial"
        partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial.replace(directory / FILE)

    def with_file(self, path: Path) -> Self:
        """The same manifest with the digest of `path` as it is now, for a file that was added or rewritten."""
        return self.model_copy(update={"files": {**self.files, path.name: digest(path)}})


def load(directory: Path) -> Manifest:
    """Read bundle.json; the files it names are not looked at. Raises BundleError."""
    path = directory / FILE
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{directory} is not a bundle: it has no {FILE}") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise BundleError(f"{path} is not valid{_first(error)}") from None


def describe(**fields: object) -> Manifest:
    """Build a manifest from what a user said. Raises BundleError naming the first field that is not valid."""
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        raise BundleError(f"the bundle cannot be described{_first(error)}") from None


def verify(directory: Path) -> Manifest:
    """Read bundle.json and check that every file it names is there with the SHA-256 it states.

    Raises BundleError naming the first file that is missing or was changed.
    """
    manifest = load(directory)
    for name, expected in manifest.files.items():
        path = directory / name
        try:
            found = digest(path)
        except FileNotFoundError:
            raise BundleError(f"{path} is missing, but {FILE} names it: restore it or make the bundle again") from None
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}") from None
        if found != expected:
            raise BundleError(f"{path} was changed: its sha256 is {found}, {FILE} says {expected}")
    return manifest


def digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces: models can be larger than memory allows."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{' at ' + place if place else ''}: {first['msg']}"
