"""A14: the public port has no admin routes."""

import httpx
import pytest

from tests.server import RunningServer

PATHS = (
    "/metrics",
    "/admin",
    "/admin/",
    "/admin/ui",
    "/admin/v1/clients",
    "/admin/v1/policy",
    "/admin/v1/audit",
    "//admin/ui",
    "/%61dmin/ui",
    "/predict/../admin/ui",
    "/v2/..%2fadmin/v1/audit",
    "/docs",
    "/redoc",
)


@pytest.mark.abuse
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", PATHS)
def test_admin_routes_are_not_on_the_public_port(server: RunningServer, method: str, path: str) -> None:
    """Every admin path is 404 there, even with the admin token."""
    response = httpx.request(method, f"{server.url}{path}", headers={"Authorization": f"Bearer {server.admin_token}"})
    assert response.status_code == 404


@pytest.mark.abuse
@pytest.mark.parametrize("path", ["/admin/ui", "/admin/v1/clients", "/admin/v1/policy", "/admin/v1/audit"])
def test_admin_routes_ask_for_token_and_host(server: RunningServer, path: str) -> None:
    """On the admin port they exist, but only with the token and under a known name."""
    url, token = f"{server.admin_url}{path}", {"Authorization": f"Bearer {server.admin_token}"}
    assert httpx.get(url, headers=token).status_code == 200
    assert httpx.get(url, auth=("admin", server.admin_token)).status_code == 200
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert httpx.get(url, headers={b"Authorization": b"Bearer \xff\xfe"}).status_code == 401
    assert httpx.get(url, headers={**token, "Host": "evil.example"}).status_code == 400
