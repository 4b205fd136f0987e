"""A12: keys, secrets and images, wherever they should not be."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.abuse.audit import records
from tests.abuse.images import encode, picture
from tests.accounts import ask, new_account, run_keys, until
from tests.redis_server import RunningRedis
from tests.server import RunningServer

PASSWORD = "a-password-of-redis"
KEPT = ("secret", "admin-token")  # the two files whose content is what must not be anywhere else


@pytest.mark.abuse
@pytest.mark.parametrize("store", ["embedded", "redis"])
def test_nothing_that_is_secret_is_written_anywhere(
    tmp_path: Path, start: Callable[..., RunningServer], figure: Callable[..., None], store: str
) -> None:
    """After answers, refusals and mistakes of all kinds: no log, metric, record, error, file or Redis value holds one of them."""
    if store == "redis":
        with RunningRedis(tmp_path / "redis") as redis:
            with redis.client() as client:
                client.config_set("requirepass", PASSWORD)
            url = f"redis://:{PASSWORD}@127.0.0.1:{redis.port}/0"
            secrets, searched = busy_minute(start("--store", url), store=url)
            searched |= {f"redis {path.name}": path.read_bytes() for path in redis.log.parent.rglob("*") if path.is_file()}
        assert any(b"cloneguard" in text for place, text in searched.items() if place.startswith("redis"))
    else:
        secrets, searched = busy_minute(start(), store="")
    hits = [(place, secret[:12]) for place, text in searched.items() for secret in secrets if secret in text]
    figure(f"{len(secrets)} secrets in {len(searched)} places of {store}: {len(hits)} hits", met=not hits)
    assert hits == []


def busy_minute(server: RunningServer, *, store: str) -> tuple[list[bytes], dict[str, bytes]]:
    """Ask in every way; returns what is secret, and everything that the server wrote or told."""
    image = encode(picture(12), "PNG")
    first, second = (new_account(server.state, name, store=store, per_minute=6) for name in ("alice", "bob"))
    until(lambda: ask(server, second), 200)
    told: list[httpx.Response] = [ask(server, first, content=image, headers={"content-type": "image/png"})]
    told += [ask(server, key) for key in (None, first[:-1], first.upper(), "cg_x", f"{first}{second}", first, first)]
    told += [ask(server, first, content=content) for content in (b"", image[:60], image * 2)]
    told += [ask(server, first, headers={"x-api-key": second}), ask(server, headers={"x-request-id": first, "cookie": second})]
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {first}"}) as client:
        told += [client.get(f"/{first}"), client.post(f"/v2/models/{first}/infer", json={"id": "x", "inputs": [{"data": [second]}]})]
        told += [client.post("/predict", json={"image": {"b64": base64.b64encode(image).decode()}})]
    operators = ("/admin/v1/policy", "/admin/v1/clients", "/admin/ui")
    token = (server.state / "admin-token").read_bytes().strip()
    secrets = [(server.state / "secret").read_bytes().strip(), token, first.encode(), second.encode(), PASSWORD.encode()]
    secrets += [key.split("_")[2].encode() for key in (first, second)]
    secrets += list(pieces(image))
    found = {f"answer {number}": answer.headers.raw.__repr__().encode() + answer.content for number, answer in enumerate(told)}
    found |= {route: server.admin(route).content for route in operators}
    found["metrics"] = httpx.get(f"{server.admin_url}/metrics").content
    found["audit"] = json.dumps(list(records(server))).encode()
    found["list"] = run_keys(server.state, "list", "--json", *(("--store", store) if store else ())).stdout.encode()
    server.terminate()
    found["log"] = server.log.read_bytes()
    for path in server.state.rglob("*"):
        if path.is_file() and path.name not in KEPT:
            found[str(path.relative_to(server.state))] = path.read_bytes()
    return secrets, found


def pieces(image: bytes) -> Iterator[bytes]:
    """Parts by which the image can be known: of its file, of that in base64, and of its pixels."""
    yield image[len(image) // 2 :][:24]
    yield base64.b64encode(image)[100:132]
    yield picture(12).tobytes()[1000:1024]
