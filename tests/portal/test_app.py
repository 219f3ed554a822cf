"""What holds for every route, whatever it is for."""

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi.testclient import TestClient
from sqlalchemy import Engine, event, text

from farebox_portal.app import create_app
from farebox_portal.clock import FrozenClock
from farebox_portal.db import make_engine
from farebox_portal.serve import listen
from farebox_portal.settings import Settings
from rig.ports import free_port

SECRET = "fb_live_this-went-into-the-wrong-field"


def test_it_is_alive_and_ready(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_it_is_alive_but_not_ready_without_its_schema(client: TestClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["code"] == "not_ready"
    assert "farebox migrate" in answer.json()["detail"]
    assert client.get("/healthz").status_code == 200


def test_it_is_not_ready_without_its_database_and_does_not_say_where_that_is(
    settings: Settings, clock: FrozenClock
) -> None:
    away = make_engine(f"postgresql+psycopg://user:hunter2@127.0.0.1:{free_port()}/name")
    answer = TestClient(create_app(settings, away, clock)).get("/readyz")
    assert answer.status_code == 503
    assert "hunter2" not in answer.text
    assert "127.0.0.1" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "not_found"),
        ("DELETE", "/v1/meters", 405, "method_not_allowed"),
        ("GET", "/v1/meters?page=0", 422, "invalid_request"),
        ("GET", "/v1/meters/none", 404, "meter_not_found"),
    ],
)
def test_every_error_is_a_problem_document(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    answer = client.request(method, path)
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["instance"] == path.partition("?")[0]
    assert problem["requestId"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("body", [b"{", b'{"key": NaN}', b'{"key": 1, "key": 2}', b"\xff"])
def test_what_is_not_json_is_a_400(client: TestClient, body: bytes) -> None:
    for headers in ({}, {"Idempotency-Key": "k"}):
        answer = client.post("/v1/customers", content=body, headers={"content-type": "application/json", **headers})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/v1/customers", {"key": SECRET + " ", "name": [SECRET], "primaryEmail": SECRET, "currency": SECRET}),
        ("/v1/meters", {"slug": SECRET, "aggregation": SECRET, "groupBy": {"a": SECRET}}),
        ("/v1/plans", {"key": SECRET, "currency": SECRET, "phases": [{"rateCards": [{"type": SECRET}]}]}),
        ("/v1/plans", {"phases": [{"rateCards": [{"type": "flat_fee", "price": {"type": SECRET, "amount": SECRET}}]}]}),
        ("/v1/policies", {"key": SECRET, "meters": {"a": SECRET}, "meterOnStatusCodes": SECRET}),
        ("/v1/subscriptions", {"plan": {"key": [SECRET]}, "customerId": 1, "timing": SECRET, "billingAnchor": SECRET}),
    ],
)
def test_no_refusal_quotes_what_was_sent(client: TestClient, logged: list[Any], path: str, document: object) -> None:
    answer = client.post(path, json=document)
    assert answer.status_code == 422
    assert answer.json()["errors"]
    assert SECRET not in answer.text
    assert SECRET not in str(logged)


def test_a_harmless_request_id_is_kept_and_another_one_is_not(client: TestClient) -> None:
    assert client.get("/healthz", headers={"x-request-id": "trace-1.2_3"}).headers["x-request-id"] == "trace-1.2_3"
    answer = client.get("/healthz", headers={"x-request-id": 'a"} {"forged": "line'})
    assert "forged" not in answer.headers["x-request-id"]


def test_the_log_has_each_request_and_no_credential(client: TestClient, logged: list[Any]) -> None:
    client.get("/v1/customers?key=fb_live_in-the-query")
    client.get("/healthz")
    (line,) = [line for line in logged if line["event"] == "request"]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/customers", 200)
    assert client.headers["authorization"].split()[1] not in str(logged)
    assert "in-the-query" not in str(logged)


def test_a_fault_of_ours_is_a_500_that_says_nothing_and_a_log_line_that_says_all(
    client: TestClient, engine: Engine, logged: list[Any]
) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE policies"))
    answer = client.get("/v1/policies")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "policies" not in answer.text.replace("/v1/policies", "")
    (line,) = [line for line in logged if line["event"] == "request_failed"]
    assert line["request_id"] == answer.json()["requestId"]
    assert "no such table" in line["traceback"]


def test_a_commit_that_fails_is_never_answered_as_a_success(client: TestClient, engine: Engine) -> None:
    """By FastAPI's default the commit would come after the answer."""

    @event.listens_for(engine, "commit")
    def fail(_: object) -> None:
        raise RuntimeError("disk full")

    answer = client.post("/v1/customers", json={"key": "acme", "name": "Acme"})
    assert answer.status_code == 500
    event.remove(engine, "commit", fail)
    assert client.get("/v1/customers").json()["totalCount"] == 0


def test_a_refused_request_leaves_nothing_behind(shop: TestClient) -> None:
    """The subscription would be written before its key is refused; here the order of refusal is the other way round."""
    version = _version(shop)
    order = {"plan": {"key": "free"}, "customerKey": "acme", "timing": "2020-01-01T00:00:00Z"}
    assert shop.post("/v1/subscriptions", json=order).status_code == 422
    assert _version(shop) == version


def _version(client: TestClient) -> int:
    app: Any = client.app
    with app.state.parts.engine.connect() as connection:
        return int(connection.execute(text("SELECT entitlements_version FROM customers")).scalar_one())


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_beyond_the_bound_is_a_413(client: TestClient, announced: bool) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(17):
            yield b" " * (1 << 16)

    body = b" " * ((1 << 20) + 1) if announced else pieces()
    answer = client.post("/v1/customers", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "content_too_large")
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_within_the_bound_is_read(client: TestClient) -> None:
    body = json.dumps({"key": "acme", "name": "Acme"}).encode().ljust(1 << 20)
    answer = client.post("/v1/customers", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 201


def test_metrics_name_routes_by_their_template(client: TestClient) -> None:
    client.get("/v1/customers/somebody-secret")
    client.get("/somewhere-else")
    figures = client.get("/metrics").text
    assert 'farebox_portal_requests_total{method="GET",route="/v1/customers/{id_or_key}",status="404"} 1.0' in figures
    assert 'route="unmatched"' in figures
    assert "somebody-secret" not in figures
    assert "somewhere-else" not in figures
    assert "farebox_portal_build_info{version=" in figures


def test_two_apps_in_one_process_have_figures_of_their_own(
    client: TestClient, settings: Settings, engine: Engine, clock: FrozenClock
) -> None:
    client.get("/v1/customers")
    other = TestClient(create_app(settings, engine, clock))
    assert "/v1/customers" not in other.get("/metrics").text


def test_openapi_describes_every_document_and_no_path_twice(client: TestClient) -> None:
    api = client.get("/openapi.json").json()
    body = api["paths"]["/v1/plans"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/PlanInput"}
    assert {"FlatPrice", "UnitPrice", "Metered"} <= set(api["components"]["schemas"])
    shapes = [re.sub(r"{[^}]*}", "{}", path) for path in api["paths"]]
    assert len(shapes) == len(set(shapes)), "two templates for one path"
    assert not [path for path in api["paths"] if path.startswith("/internal")]


@pytest.fixture
def served(settings: Settings, engine: Engine, clock: FrozenClock) -> Iterator[str]:
    """The address of a portal behind a real server."""
    port = free_port()
    listener = listen("127.0.0.1", port)
    config = uvicorn.Config(create_app(settings, engine, clock), log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
    listener.close()


def test_what_was_answered_as_written_is_there_for_everybody(served: str, client: TestClient, engine: Engine) -> None:
    headers = dict(client.headers)
    for number in range(20):
        sent = httpx2.post(f"{served}/v1/customers", json={"key": f"c{number}", "name": "C"}, headers=headers)
        assert sent.status_code == 201
        with engine.connect() as connection:
            found = connection.execute(text("SELECT count(*) FROM customers WHERE key = :key"), {"key": f"c{number}"})
            assert found.scalar_one() == 1


def test_more_writers_than_threads_all_get_through(served: str, client: TestClient) -> None:
    """Threads that wait for SQLite's write lock must not take the last thread from the one that holds it."""
    headers = dict(client.headers)

    def write(number: int) -> int:
        document = {"key": f"c{number}", "name": "C"}
        return httpx2.post(f"{served}/v1/customers", json=document, headers=headers, timeout=60).status_code

    with ThreadPoolExecutor(60) as pool:
        assert set(pool.map(write, range(120))) == {201}
