from typing import Any

import pytest
from fastapi.testclient import TestClient

from builders.documents import faults

TOKENS = {"slug": "tokens", "aggregation": "SUM", "valueProperty": "$.total", "groupBy": {"model": "$.model"}}


def test_a_meter_is_found_by_id_and_slug(client: TestClient) -> None:
    made = client.post("/v1/meters", json=TOKENS).json()
    assert (made["name"], made["eventType"]) == ("tokens", "tokens")
    for name in (made["id"], "tokens"):
        assert client.get(f"/v1/meters/{name}").json() == made
    assert client.get("/v1/meters").json()["items"] == [made]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"slug": "To Kens"}, "/slug"),
        ({"aggregation": "MEDIAN"}, "/aggregation"),
        ({"aggregation": "COUNT"}, "/valueProperty"),
        ({"valueProperty": None}, "/valueProperty"),
        ({"aggregation": "LATEST", "valueProperty": None}, "/valueProperty"),
        ({"groupBy": {"to ken": "$.x"}}, "/groupBy/to ken"),
        ({"groupBy": {"subject": "$.x"}}, "/groupBy/subject"),
        ({"groupBy": {f"d{n}": "$.x" for n in range(17)}}, "/groupBy"),
        ({"metadata": []}, "/metadata"),
        ({"valueProperty": "total"}, "/valueProperty"),
        ({"groupBy": {"model": "model"}}, "/groupBy/model"),
        ({"unit": "token"}, "/unit"),
    ],
)
def test_a_meter_that_could_not_count_is_refused(client: TestClient, change: dict[str, Any], pointer: str) -> None:
    assert list(faults(client.post("/v1/meters", json=TOKENS | change))) == [pointer]
    assert client.get("/v1/meters").json()["totalCount"] == 0


@pytest.mark.parametrize("aggregation", ["SUM", "UNIQUE_COUNT", "MAX", "MIN", "AVG", "LATEST"])
def test_every_aggregation_of_a_value_is_taken(client: TestClient, aggregation: str) -> None:
    sent = TOKENS | {"aggregation": aggregation, "metadata": {"team": "billing"}, "groupBy": {"tokenType": "$.type"}}
    made = client.post("/v1/meters", json=sent).json()
    assert {name: made[name] for name in sent} == sent


def test_only_what_does_not_change_the_numbers_can_change(client: TestClient) -> None:
    made = client.post("/v1/meters", json=TOKENS).json()
    changed = client.put("/v1/meters/tokens", json={"name": "All tokens", "groupBy": {}}).json()
    assert (changed["name"], changed["groupBy"], changed["aggregation"]) == ("All tokens", {}, "SUM")
    assert changed["id"] == made["id"]
    fixed = {"slug": "other", "eventType": "e", "aggregation": "MAX", "valueProperty": None, "unit": "token"}
    refused = faults(client.put("/v1/meters/tokens", json=fixed))
    assert list(refused) == ["/slug", "/eventType", "/aggregation", "/valueProperty", "/unit"]
    assert client.get("/v1/meters/tokens").json() == changed


def test_since_when_openmeter_counts_is_kept_and_may_not_lie_ahead(client: TestClient) -> None:
    """The ledger begins with what the gateway meters, so that a day that is past says nothing about it."""
    made = client.post("/v1/meters", json=TOKENS | {"eventFrom": "2026-01-01T01:00:00+01:00"}).json()
    assert made["eventFrom"] == "2026-01-01T00:00:00Z"
    assert client.get("/v1/meters/tokens").json() == made
    assert set(faults(client.put("/v1/meters/tokens", json={"eventFrom": "2026-01-02T00:00:00Z"}))) == {"/eventFrom"}
    ahead = TOKENS | {"slug": "later", "eventFrom": "2026-02-01T00:00:00Z"}
    assert "future" in faults(client.post("/v1/meters", json=ahead))["/eventFrom"]
    for wrong in ("2026-01-01", "soon", "2026-01-01T00:00:00", {}):
        assert set(faults(client.post("/v1/meters", json=ahead | {"eventFrom": wrong}))) == {"/eventFrom"}


def test_a_meter_that_was_read_can_be_sent_back(client: TestClient) -> None:
    made = client.post("/v1/meters", json=TOKENS).json()
    changed = client.put("/v1/meters/tokens", json=made | {"name": "Tokens"}).json()
    assert changed == made | {"name": "Tokens"}


def test_what_a_feature_is_a_slice_by_stays(client: TestClient) -> None:
    client.post("/v1/meters", json=TOKENS)
    gpt = {"key": "gpt_tokens", "name": "GPT", "meterSlug": "tokens", "filters": {"model": "gpt-4"}}
    assert client.post("/v1/features", json=gpt).status_code == 201
    assert client.put("/v1/meters/tokens", json={"groupBy": {}}).json()["code"] == "meter_in_use"
    wider = {"groupBy": {"model": "$.model", "kind": "$.kind"}}
    assert client.put("/v1/meters/tokens", json=wider).json()["groupBy"] == wider["groupBy"]
    client.delete("/v1/features/gpt_tokens")
    assert client.put("/v1/meters/tokens", json={"groupBy": {}}).status_code == 200


def test_a_slug_is_taken_for_ever(client: TestClient) -> None:
    client.post("/v1/meters", json=TOKENS)
    assert client.post("/v1/meters", json=TOKENS).json()["code"] == "meter_slug_taken"
    assert client.delete("/v1/meters/tokens").status_code == 204
    assert client.get("/v1/meters/tokens").status_code == 404
    again = client.post("/v1/meters", json=TOKENS)
    assert again.json()["code"] == "meter_slug_taken"
    assert "ledger" in again.json()["detail"]


def test_a_meter_is_kept_while_a_feature_counts_on_it(shop: TestClient) -> None:
    assert shop.delete("/v1/meters/api_requests").json()["code"] == "meter_in_use"
    shop.post(f"/v1/plans/{shop.get('/v1/plans/free').json()['id']}/archive")
    assert shop.delete("/v1/features/api_requests").status_code == 204
    assert shop.delete("/v1/meters/api_requests").status_code == 204


def test_a_meter_is_kept_while_a_policy_counts_on_it(client: TestClient) -> None:
    client.post("/v1/meters", json=TOKENS)
    client.put("/v1/policies/open", json={})
    client.put("/v1/policies/chat", json={"meters": {"tokens": 1}})
    assert client.delete("/v1/meters/tokens").json()["code"] == "meter_in_use"
    client.delete("/v1/policies/chat")
    assert client.delete("/v1/meters/tokens").status_code == 204
