"""Open Inference Protocol v2 (KServe, Triton, MLServer): one BYTES tensor of images in, labels, class ids and scores out."""

from http import HTTPStatus
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from app import __version__
from app.errors import BadSyntaxError, NotFoundError, UnsupportedMediaError
from app.public.bodies import decode_base64, parse_json, received_body
from app.public.charging import charged, require_quota
from app.public.health import ready_or_503
from app.public.problems import documented
from app.public.security import SECURITY
from app.service import Service
from defenses.vocabulary import Answer

router = APIRouter(prefix="/v2", tags=["open inference protocol"])


class ServerMetadata(BaseModel):
    """Who serves."""

    name: str = Field(examples=["cloneguard"])
    version: str = Field(examples=[__version__])
    extensions: list[str]


class Live(BaseModel):
    """The process lives."""

    live: bool


class Ready(BaseModel):
    """The model answers."""

    ready: bool


class TensorMetadata(BaseModel):
    """A tensor's name, type and shape; -1 is the free axis."""

    name: str
    datatype: Literal["BYTES", "INT64", "FP64"]
    shape: list[int]


class ModelMetadata(BaseModel):
    """What the model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InputTensor(BaseModel):
    """Images as base64 strings."""

    model_config = ConfigDict(strict=True)

    name: str = Field(examples=["image"])
    shape: list[int] = Field(examples=[[1]], min_length=1, max_length=2)
    datatype: Literal["BYTES"]
    data: list[str] = Field(min_length=1)


class InferRequest(BaseModel):
    """One BYTES tensor: n images are n queries."""

    model_config = ConfigDict(strict=True)

    id: str | None = Field(None, max_length=128)
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)


def _infer_schema() -> dict[str, Any]:
    """The request's schema with its tensor written in place: OpenAPI looks for references elsewhere."""
    schema = InferRequest.model_json_schema()
    schema["properties"]["inputs"]["items"] = schema.pop("$defs")["InputTensor"]
    return schema


class OutputTensor(TensorMetadata):
    """A tensor with its values in row-major order."""

    data: list[Any]


class InferAnswer(BaseModel):
    """One row an image, best class first."""

    id: str
    model_name: str
    model_version: str
    outputs: list[OutputTensor]


@router.get("", summary="Server metadata")
async def server_metadata() -> ServerMetadata:
    """Say who serves."""
    return ServerMetadata(name="cloneguard", version=__version__, extensions=[])


@router.get("/health/live", summary="Liveness")
async def live() -> Live:
    """Say that the process lives."""
    return Live(live=True)


@router.get("/health/ready", summary="Readiness", responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
async def ready(request: Request) -> Ready:
    """Say whether the model answers."""
    ready_or_503(request)
    return Ready(ready=True)


@router.get("/models/{model}", summary="Model metadata", responses=documented(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY))
async def model_metadata(model: str, request: Request) -> ModelMetadata:
    """Say what the model takes and gives."""
    service = _service_for(model, request)
    truncation = service.policies.in_force.live.settings.truncation
    entries = len(service.bundle.manifest.labels)
    scores = True
    if truncation.mode == "enforce":
        entries, scores = min(entries, truncation.top_k), not truncation.labels_only
    return ModelMetadata(
        name=service.bundle.manifest.name,
        versions=[service.bundle.manifest.version],
        platform="onnxruntime_onnx",
        inputs=[TensorMetadata(name="image", datatype="BYTES", shape=[-1])],
        outputs=[
            TensorMetadata(name="label", datatype="BYTES", shape=[-1, entries]),
            TensorMetadata(name="class_id", datatype="INT64", shape=[-1, entries]),
            *([TensorMetadata(name="score", datatype="FP64", shape=[-1, entries])] if scores else []),
        ],
    )


@router.get(
    "/models/{model}/ready",
    summary="Model readiness",
    responses=documented(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def model_ready(model: str, request: Request) -> Ready:
    """Say whether this model answers."""
    _service_for(model, request)
    return await ready(request)


@router.post(
    "/models/{model}/infer",
    response_model=InferAnswer,
    responses=documented(
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
    openapi_extra={
        "security": SECURITY,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _infer_schema(),
                    "example": {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["/9j/4AAQSkZJRg=="]}]},
                }
            },
        },
    },
    summary="Recognize images",
)
async def infer(model: str, request: Request) -> Response:
    """Recognize n images, base64 in one BYTES tensor; if one of them fails, the request fails."""
    service: Service = request.app.state.service
    with service.observed("infer"):
        service.require_room(1)
        client = service.clients.identify(request)
        _service_for(model, request)  # the key first: who has none learns nothing, and the same on every path
        await require_quota(service, request, client=client)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedMediaError("Send application/json; the binary extension is not offered.")
        async with received_body(service, request.headers, request.receive) as body:
            asked = _parse(body, most=service.settings.server.max_images)
            images = [decode_base64(text) for text in asked.inputs[0].data]
            async with charged(service, request, client=client, queries=len(images)):
                rows = await service.ask(*images, client=client)
    manifest = service.bundle.manifest
    document = {
        "id": asked.id or rows[0][0].queries[rows[0][1]].id,
        "model_name": manifest.name,
        "model_version": manifest.version,
        "outputs": _tensors([(case.answer, row) for case, row in rows], manifest.labels),
    }
    return Response(orjson.dumps(document), headers=request.state.headers, media_type="application/json")


def _service_for(model: str, request: Request) -> Service:
    service: Service = request.app.state.service
    if model != service.bundle.manifest.name:
        raise NotFoundError("No model of that name is served here.")
    return service


def _parse(body: bytes, *, most: int) -> InferRequest:
    try:
        asked = InferRequest.model_validate(parse_json(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadSyntaxError(f"{'.'.join(str(part) for part in first['loc']) or 'body'}: {first['msg']}.") from error
    tensor = asked.inputs[0]
    if tensor.shape not in ([len(tensor.data)], [len(tensor.data), 1]):
        raise BadSyntaxError(f"The tensor's shape {tensor.shape} does not fit its {len(tensor.data)} images.")
    if len(tensor.data) > most:
        raise BadSyntaxError(f"At most {most} images fit in one request.")
    return asked


def _tensors(answers: list[tuple[Answer | None, int]], labels: tuple[str, ...]) -> list[dict[str, Any]]:
    ids: list[int] = []
    scores: list[float] = []
    for answer, row in answers:
        assert answer is not None
        ids += answer.class_ids[row].tolist()
        if answer.scores is not None:
            scores += answer.scores[row].tolist()
    shape = [len(answers), len(ids) // len(answers)]
    tensors: list[dict[str, Any]] = [
        {"name": "label", "datatype": "BYTES", "shape": shape, "data": [labels[i] for i in ids]},
        {"name": "class_id", "datatype": "INT64", "shape": shape, "data": ids},
    ]
    if scores:
        tensors.append({"name": "score", "datatype": "FP64", "shape": shape, "data": scores})
    return tensors
