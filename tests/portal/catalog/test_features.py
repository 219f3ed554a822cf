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


def test_an_archived_feature_is_still_known_but_cannot_be_sold(shop: TestClient) -> None:
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
