from typing import Any

import pytest
from fastapi.testclient import TestClient

from builders.documents import a_plan, faults


def test_a_feature_is_found_by_id_and_key(shop: TestClient) -> None:
    made = shop.get("/v1/features/premium").json()
    assert shop.get(f"/v1/features/{made['id']}").json() == made
    assert "meterSlug" not in made
    assert shop.get("/v1/features/api_requests").json()["meterSlug"] == "api_requests"


def test_a_feature_needs_a_meter_that_exists(shop: TestClient) -> None:
    answer = shop.post("/v1/features", json={"key": "x", "name": "X", "meterSlug": "none"})
    assert faults(answer) == {"/meterSlug": "there is no such meter"}


@pytest.mark.parametrize(
    "cost",
    [
        {"type": "manual", "amount": "0.0000125"},
        {"type": "manual", "amount": 0.5},
        {"type": "llm", "provider": "openai", "modelProperty": "model", "tokenType": "input"},
        {
            "type": "llm",
            "providerProperty": "p",
            "model": "m",
            "tokenTypeProperty": "t",
            "pricing": {"inputPerToken": "1"},
        },
    ],
)
def test_what_a_unit_costs_the_provider_is_kept_as_it_was_sent(shop: TestClient, cost: dict[str, Any]) -> None:
    made = shop.post("/v1/features", json={"key": "x", "name": "X", "unitCost": cost}).json()
    assert made["unitCost"] == cost
    assert shop.get("/v1/features/x").json() == made
    assert shop.post("/v1/features", json={"key": "y", "name": "Y", "unitCost": made["unitCost"]}).status_code == 201


@pytest.mark.parametrize(
    ("cost", "pointer"),
    [
        ({"type": "manual"}, "/unitCost/amount"),
        ({"type": "manual", "amount": "NaN"}, "/unitCost/amount"),
        ({"type": "manual", "amount": -1}, "/unitCost/amount"),
        ({"type": "dynamic"}, "/unitCost"),
        ({"type": "llm", "modell": "m"}, "/unitCost/modell"),
        ("0.01", "/unitCost"),
    ],
)
def test_a_cost_that_nobody_can_read_is_refused(shop: TestClient, cost: Any, pointer: str) -> None:
    found = faults(shop.post("/v1/features", json={"key": "x", "name": "X", "unitCost": cost}))
    assert all((place + "/").startswith(pointer + "/") for place in found)
    assert shop.get("/v1/features/x").status_code == 404


GPT = {"key": "gpt", "name": "GPT tokens", "meterSlug": "tokens"}
TOKENS = {"slug": "tokens", "aggregation": "SUM", "valueProperty": "$.total", "groupBy": {"model": "$.model"}}


@pytest.mark.parametrize(
    ("filters", "plain", "advanced"),
    [
        ({"filters": {"model": "gpt-4"}}, "gpt-4", {"$eq": "gpt-4"}),
        ({"filters": {"model": ["a", "b"]}}, ["a", "b"], {"$in": ["a", "b"]}),
        ({"meterGroupByFilters": {"model": "gpt-4"}}, "gpt-4", {"$eq": "gpt-4"}),
        ({"advancedMeterGroupByFilters": {"model": {"$eq": "gpt-4"}}}, "gpt-4", {"$eq": "gpt-4"}),
        ({"advancedMeterGroupByFilters": {"model": {"$in": ["a", "b"]}}}, ["a", "b"], {"$in": ["a", "b"]}),
    ],
)
def test_a_feature_may_be_a_slice_of_a_meter(
    client: TestClient, filters: dict[str, Any], plain: Any, advanced: dict[str, Any]
) -> None:
    client.post("/v1/meters", json=TOKENS)
    made = client.post("/v1/features", json=GPT | filters).json()
    assert made["filters"] == {"model": plain}
    assert made["advancedMeterGroupByFilters"] == {"model": advanced}
    assert client.get("/v1/features/gpt").json() == made
    again = {name: made[name] for name in ("name", "meterSlug", "filters", "advancedMeterGroupByFilters")}
    assert client.post("/v1/features", json=again | {"key": "copy"}).status_code == 201, "both forms, one meaning"


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"filters": {"region": "eu"}}, "/filters/region", "groupBy"),
        ({"filters": {"model": []}}, "/filters/model", "1 to 100"),
        ({"filters": {"model": 5}}, "/filters/model", "texts"),
        ({"filters": {"model": ["a", None]}}, "/filters/model", "texts"),
        ({"filters": {"model": "x" * 257}}, "/filters/model", "256"),
        ({"filters": {str(n): "x" for n in range(17)}}, "/filters", "at most 16"),
        ({"filters": {"model": {"$like": "gpt%"}}}, "/filters/model", "$eq or $in"),
        ({"filters": {"model": {"$eq": "a", "$in": ["a"]}}}, "/filters/model", "$eq or $in"),
        ({"filters": {"model": {}}}, "/filters/model", "$eq or $in"),
        ({"filters": {"model": {"$eq": ["a"]}}}, "/filters/model", "one value under $eq"),
        ({"filters": {"model": {"$in": "a"}}}, "/filters/model", "a list of values"),
        ({"filters": {"model": "a"}, "meterGroupByFilters": {"model": "b"}}, "/meterGroupByFilters", "otherwise"),
        ({"filters": {"model": "a"}, "meterSlug": None}, "/filters", "needs a meterSlug"),
    ],
)
def test_a_slice_that_could_not_be_counted_is_refused(
    client: TestClient, change: dict[str, Any], pointer: str, words: str
) -> None:
    client.post("/v1/meters", json=TOKENS)
    found = faults(client.post("/v1/features", json=GPT | change))
    assert list(found) == [pointer]
    assert words in found[pointer]
    assert client.get("/v1/features").json()["totalCount"] == 0


def test_a_feature_that_is_on_sale_is_not_archived(shop: TestClient) -> None:
    refused = shop.delete("/v1/features/api_requests")
    assert (refused.status_code, refused.json()["code"]) == (409, "feature_in_use")
    assert "'free'" in refused.json()["detail"]
    shop.post(f"/v1/plans/{shop.get('/v1/plans/free').json()['id']}/archive")
    assert shop.delete("/v1/features/api_requests").status_code == 204


def test_a_feature_that_a_policy_asks_for_is_not_archived(shop: TestClient) -> None:
    shop.put("/v1/policies/open", json={})
    shop.put("/v1/policies/gold", json={"requiredEntitlements": ["premium"]})
    refused = shop.delete("/v1/features/premium")
    assert (refused.json()["code"], "'gold'" in refused.json()["detail"]) == ("feature_in_use", True)
    shop.delete("/v1/policies/gold")
    assert shop.delete("/v1/features/premium").status_code == 204


def test_an_archived_feature_is_still_known_but_cannot_be_sold(shop: TestClient) -> None:
    shop.post(f"/v1/plans/{shop.get('/v1/plans/free').json()['id']}/archive")
    assert shop.delete("/v1/features/api_requests").status_code == 204
    assert shop.delete("/v1/features/api_requests").status_code == 204
    assert shop.get("/v1/features/api_requests").json()["archivedAt"]
    assert [item["key"] for item in shop.get("/v1/features").json()["items"]] == ["premium"]
    assert shop.get("/v1/features?includeArchived=true").json()["totalCount"] == 2
    assert faults(shop.post("/v1/plans", json=a_plan(key="new"))) == {
        "/phases/0/rateCards/0/featureKey": "there is no such feature"
    }


def test_a_key_is_taken_also_by_an_archived_feature(shop: TestClient) -> None:
    shop.delete("/v1/features/premium")
    answer = shop.post("/v1/features", json={"key": "premium", "name": "P"})
    assert (answer.status_code, answer.json()["code"]) == (409, "feature_key_taken")
    assert "archived" in answer.json()["detail"]


def test_a_feature_never_changes(shop: TestClient) -> None:
    assert shop.put("/v1/features/premium", json={"name": "X"}).status_code == 405
