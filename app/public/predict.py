"""`POST /predict`: one image in, its classes out."""

from http import HTTPStatus
from typing import Any

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.public.bodies import IMAGE_TYPES, image_in, received_body
from app.public.charging import charged
from app.public.problems import documented
from app.public.security import SECURITY
from app.service import Service
from defenses.vocabulary import Case

router = APIRouter(tags=["predict"])


class ModelName(BaseModel):
    """The recognizer that answered."""

    name: str = Field(examples=["cifar10"])
    version: str = Field(examples=["1.0.0"])


class Prediction(BaseModel):
    """One class; `score` is absent where only labels are told."""

    label: str = Field(examples=["cat"])
    class_id: int = Field(examples=[3])
    score: float | None = Field(None, examples=[0.97])


class PredictAnswer(BaseModel):
    """The answer to one image: best class first, always the same number of entries."""

    id: str = Field(description="identifier of this answer", examples=["5f0c8a6d2c5f4f0d8b1a8d6f2f3c9b7e"])
    model: ModelName
    predictions: list[Prediction]
    created: int = Field(description="seconds since 1970-01-01 UTC", examples=[1795219200])


_BINARY = {"schema": {"type": "string", "format": "binary"}}
REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": "The image: as it is, in the form field `file`, or base64 in JSON.",
    "content": {
        **dict.fromkeys(IMAGE_TYPES, _BINARY),
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}}}
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {
                        "type": "object",
                        "required": ["b64"],
                        "properties": {"b64": {"type": "string", "contentEncoding": "base64", "minLength": 1}},
                    }
                },
            },
            "example": {
                "image": {"b64": "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR4nGP8//8/AzbAhFV08EoAAAbkAw1sI5v3AAAAAElFTkSuQmCC"}
            },
        },
    },
}


@router.post(
    "/predict",
    response_model=PredictAnswer,
    responses=documented(
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
    openapi_extra={"requestBody": REQUEST_BODY, "security": SECURITY},
    summary="Recognize one image",
)
async def predict(request: Request) -> Response:
    """Recognize one image: send it as JPEG, PNG or WebP, as the form field `file`, or base64 in JSON."""
    service: Service = request.app.state.service
    with service.observed("predict"):
        service.require_room(1)  # before anything else: in an overload this is what most requests cost
        client = service.clients.identify(request)
        async with (
            charged(service, request, client=client, queries=1),
            received_body(service, request.headers, request.receive) as body,
        ):
            ((case, row),) = await service.ask(await image_in(request.headers, body), client=client)
        return Response(orjson.dumps(render(service, case, row)), headers=request.state.headers, media_type="application/json")


def render(service: Service, case: Case, row: int) -> dict[str, Any]:
    """One query's answer as a JSON document."""
    assert case.answer is not None
    manifest = service.bundle.manifest
    ids = case.answer.class_ids[row].tolist()
    predictions: list[dict[str, Any]] = [{"label": manifest.labels[i], "class_id": i} for i in ids]
    if case.answer.scores is not None:
        for prediction, score in zip(predictions, case.answer.scores[row].tolist(), strict=True):
            prediction["score"] = score
    return {
        "id": case.queries[row].id,
        "model": {"name": manifest.name, "version": manifest.version},
        "predictions": predictions,
        "created": int(case.queries[row].received),
    }
