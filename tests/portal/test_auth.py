from typing import Any

import pytest
from fastapi.testclient import TestClient

OPEN = {"/healthz", "/readyz", "/metrics", "/openapi.json"}
SIGNED = "/v1/webhooks/stripe"  # whoever calls it shows no token, but signs; see payments/test_webhooks.py


def routes(client: TestClient) -> list[tuple[str, str]]:
    """(method, path with ids filled in) of every operation, the internal ones among them."""
    app: Any = client.app
    paths = {(method.upper(), path) for path, operations in app.openapi()["paths"].items() for method in operations}
    paths |= {("POST", "/internal/v1/usage"), ("POST", "/internal/v1/accounts/states")}
    paths.remove(("POST", SIGNED))
    filled = [(method, "/".join("x" if "{" in step else step for step in path.split("/"))) for method, path in paths]
    return sorted(filled)


def test_nothing_is_open_but_health_and_metrics(client: TestClient) -> None:
    found = routes(client)
    assert len(found) > 30
    for method, path in found:
        answer = client.request(method, path, headers={"Authorization": ""})
        if path in OPEN:
            assert answer.status_code == 200
        else:
            assert answer.status_code == 401, (method, path)
            assert answer.json()["code"] == "missing_token"
            assert answer.headers["www-authenticate"] == 'Bearer realm="farebox"'


def test_a_webhook_without_a_signature_is_no_webhook(client: TestClient) -> None:
    assert client.post(SIGNED, json={"id": "evt_1"}).json()["code"] == "webhooks_not_set_up"


def test_a_wrong_token_opens_nothing(client: TestClient) -> None:
    for method, path in routes(client):
        if path not in OPEN:
            answer = client.request(method, path, headers={"Authorization": "Bearer not-the-token"})
            assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token"), (method, path)


def test_operator_and_plugin_cannot_do_each_others_work(client: TestClient) -> None:
    for method, path in routes(client):
        if path in OPEN:
            continue
        token = "admin-token-of-the-tests" if path.startswith("/internal") else "plugin-token-of-the-tests"
        answer = client.request(method, path, headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (method, path)


@pytest.mark.parametrize("header", ["Basic YWRtaW46YWRtaW4=", "Bearer", "admin-token-of-the-tests"])
def test_only_bearer_counts(client: TestClient, header: str) -> None:
    assert client.get("/v1/meters", headers={"Authorization": header}).status_code == 401


def test_a_token_that_is_not_ascii_is_refused_and_breaks_nothing(client: TestClient) -> None:
    answer = client.get("/v1/meters", headers={"Authorization": "Bearer tökén".encode()})
    assert answer.status_code == 401


def test_who_is_not_known_learns_nothing_about_a_body(client: TestClient) -> None:
    answer = client.post("/v1/customers", json={"nonsense": 1}, headers={"Authorization": "Bearer wrong"})
    assert answer.status_code == 401
