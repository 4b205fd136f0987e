"""Which feature backbone goes beside a classifier: ours, a torchvision network's, a file's, or none."""

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from models.manifest import BundleError, digest
from models.onnx_file import read

BUILTIN = Path(__file__).parent / "backbones" / "photographs.onnx"
TORCHVISION = "torchvision:"
CONTRACT = "float32 `pixels` (N, 3, side, side) of 0..255 in; float32 `features` and `embedding` (N, d) out"


@dataclass(frozen=True, slots=True, eq=False)
class BackboneFile:
    """A backbone's graph, with the name and SHA-256 that a bundle's recipe states."""

    name: str
    sha256: str
    model: onnx.ModelProto


def choose(choice: str) -> BackboneFile | None:
    """The backbone that `builtin`, `none`, `torchvision:NAME` or the path of an ONNX file names; None for `none`.

    A torchvision network is exported on the fly, with its pretrained weights. Raises BundleError.
    """
    if choice == "none":
        return None
    if choice == "builtin":
        if not BUILTIN.is_file():
            raise BundleError(f"{BUILTIN} is missing from this installation: install cloneguard again, or give --backbone none")
        return open_backbone(BUILTIN, BUILTIN.stem)
    if not choice.startswith(TORCHVISION):
        return open_backbone(Path(choice), Path(choice).name)
    try:
        # By name: the server's own code, which import-linter follows, never reaches torch.
        torchvision_backbone = importlib.import_module("models.torchvision_backbone")
    except ModuleNotFoundError as error:
        repair = "pip install 'cloneguard[train]', or give --backbone builtin"
        raise BundleError(f"--backbone {choice} needs torch and torchvision ({error}): {repair}") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.onnx"
        torchvision_backbone.export_torchvision(choice.removeprefix(TORCHVISION), path)
        return open_backbone(path, choice)


def open_backbone(path: Path, name: str) -> BackboneFile:
    """Read a backbone's file and check its two ends. Raises BundleError."""
    model = read(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inputs, *model.graph.output)}
    sides = [dim.dim_value for value in inputs for dim in value.type.tensor_type.shape.dim][1:]
    fits = (
        [value.name for value in inputs] == ["pixels"]
        and {"features", "embedding"} <= kinds.keys()
        and set(kinds.values()) == {TensorProto.FLOAT}
    )
    if not fits or len(sides) != 3 or sides[0] != 3 or sides[1] != sides[2] or sides[1] < 1:
        raise BundleError(f"{path} is not a backbone: export it with {CONTRACT}")
    for value in [value for value in model.graph.input if value.name in weights]:
        model.graph.input.remove(value)
    for value in [value for value in model.graph.output if value.name not in {"features", "embedding"}]:
        model.graph.output.remove(value)
    return BackboneFile(name, digest(path), model)
