"""A recognizer by what it is called on the command line: a URL, a bundle's name or directory, an ONNX file."""

import hashlib
from contextlib import ExitStack
from pathlib import Path

from app.recognizers.asked import Source
from app.recognizers.endpoint import Endpoint
from app.recognizers.local import bundle_source
from models import bundle as bundles
from models import onnx_file
from models.bundle import Bundle
from models.manifest import FILE, BundleError, Manifest
from models.packaging import make_bundle

ONNX = ".onnx"
DEFAULT_SIZE = 32  # pixels a side, where our recognizer is an address


def is_url(named: str) -> bool:
    """Whether it is asked over HTTP."""
    return named.startswith(("http://", "https://"))


def content(named: str) -> str:
    """SHA-256 of an ONNX file, "" for everything else: another file at the same place is another recognizer. Raises OSError."""
    return hashlib.sha256(Path(named).read_bytes()).hexdigest() if named.endswith(ONNX) and not is_url(named) else ""


def opened(named: str, *, key: str | None, rate: float, until_the_end: ExitStack) -> tuple[Source, Bundle | None]:
    """Where a recognizer's answers come from, and the bundle if it is one. Raises RecognizerError, BundleError."""
    if is_url(named):
        return until_the_end.enter_context(Endpoint(named, rate=rate, api_key=key)), None
    bundle = bundles.load(named, device="auto")
    return bundle_source(bundle), bundle


def bundled(named: str, directory: Path, *, ours: Manifest | None) -> str:
    """The same name, but that of a bundle in `directory` if it names an ONNX file; its classes are called as ours, else by their numbers.

    Raises BundleError.
    """
    if not named.endswith(ONNX):
        return named
    if not (directory / FILE).is_file():
        labels, size = (ours.labels, ours.input.size) if ours else (_numbers(Path(named)), DEFAULT_SIZE)
        make_bundle(Path(named), directory, name=directory.name, version="1", labels=labels, size=size, mean=(0, 0, 0), std=(1, 1, 1))
    return str(directory)


def _numbers(path: Path) -> list[str]:
    """The numbers of a classifier's classes, as many as its output has. Raises BundleError."""
    shape = onnx_file.read(path).graph.output[0].type.tensor_type.shape.dim
    if not shape or not shape[-1].dim_value:
        raise BundleError(f"{path} does not say how many classes it has: give our bundle as --owner")
    return [str(number) for number in range(shape[-1].dim_value)]
