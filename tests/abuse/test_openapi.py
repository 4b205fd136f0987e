"""A6: the OpenAPI document against the running server."""

from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import strategies
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from tests.abuse import FULL
from tests.abuse.images import MEDIA_TYPES
from tests.abuse.mutations import mutated, originals
from tests.server import RunningServer

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

for media_type in MEDIA_TYPES.values():
    files = [file for kind, file in (*originals(), *mutated(60, seed=6)) if kind == media_type]
    schemathesis.openapi.media_type(media_type, strategies.one_of(strategies.sampled_from(files), strategies.binary()))


@pytest.mark.abuse
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_answers_are_the_documented_ones(server: RunningServer, mode: GenerationMode) -> None:
    """No valid or invalid request for any operation is answered with 5xx, or with a status, media type or body that is not documented.

    200 examples an operation and mode at full length; half of those that name a model name the one that is served.
    """
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations() if isinstance(found, Ok)]
    assert {operation.label for operation in operations} >= {"POST /predict", "POST /v2/models/{model}/infer", "GET /readyz"}
    for operation in operations:

        @hypothesis.settings(
            max_examples=200 if FULL else 20,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode), served=strategies.booleans())
        def check(case: schemathesis.Case[Any], *, served: bool) -> None:
            if served and "model" in case.path_parameters:
                case.path_parameters["model"] = "cifar10"
            case.call_and_validate(checks=CHECKS, timeout=30)

        try:
            check()
        except hypothesis.errors.Unsatisfiable:  # an operation without input has no invalid requests
            assert mode is GenerationMode.NEGATIVE
            assert operation.method == "get"


@pytest.mark.abuse
def test_every_reference_in_the_document_leads_somewhere(server: RunningServer) -> None:
    """Generators of clients, and of the tests above, silently skip what a dangling reference hides."""
    document = httpx.get(f"{server.url}/openapi.json").json()
    dangling = []
    for reference in references(document):
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target.get(step, {})
        if not target:
            dangling.append(reference)
    assert not dangling


def references(node: object) -> Iterator[str]:
    """All `$ref`s below a node."""
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)
