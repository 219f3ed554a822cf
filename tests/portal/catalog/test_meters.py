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
        ({"aggregation": "COUNT"}, ""),
        ({"valueProperty": None}, ""),
        ({"valueProperty": "total"}, "/valueProperty"),
        ({"groupBy": {"model": "model"}}, "/groupBy/model"),
        ({"unit": "token"}, "/unit"),
    ],
)
def test_a_meter_that_could_not_count_is_refused(client: TestClient, change: dict[str, Any], pointer: str) -> None:
    assert list(faults(client.post("/v1/meters", json=TOKENS | change))) == [pointer]
    assert client.get("/v1/meters").json()["totalCount"] == 0


def test_only_what_does_not_change_the_numbers_can_change(client: TestClient) -> None:
    made = client.post("/v1/meters", json=TOKENS).json()
    changed = client.put("/v1/meters/tokens", json={"name": "All tokens", "groupBy": {}}).json()
    assert (changed["name"], changed["groupBy"], changed["aggregation"]) == ("All tokens", {}, "SUM")
    assert changed["id"] == made["id"]
    assert list(faults(client.put("/v1/meters/tokens", json={"aggregation": "MAX"}))) == ["/aggregation"]


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
    shop.delete("/v1/features/api_requests")
    assert shop.delete("/v1/meters/api_requests").status_code == 204


def test_a_meter_is_kept_while_a_policy_counts_on_it(client: TestClient) -> None:
    client.post("/v1/meters", json=TOKENS)
    client.put("/v1/policies/open", json={})
    client.put("/v1/policies/chat", json={"meters": {"tokens": 1}})
    assert client.delete("/v1/meters/tokens").json()["code"] == "meter_in_use"
    client.delete("/v1/policies/chat")
    assert client.delete("/v1/meters/tokens").status_code == 204
