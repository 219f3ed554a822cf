"""Add-ons and the plans that offer them, over HTTP. What makes a document sound is tested in test_addon_rules."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from builders.addons import an_addon_document
from builders.documents import a_card, a_plan, faults


def create(shop: TestClient, **fields: Any) -> dict[str, Any]:
    answer = shop.post("/v1/addons", json=an_addon_document(**fields))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def published(shop: TestClient, **fields: Any) -> dict[str, Any]:
    answer = shop.post(f"/v1/addons/{create(shop, **fields)['id']}/publish")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def plan_id(shop: TestClient) -> str:
    return str(shop.get("/v1/plans/free").json()["id"])


def offer(shop: TestClient, plan: str, **fields: Any) -> Any:
    return shop.post(f"/v1/plans/{plan}/addons", json={"addon": {"key": "seats"}, "fromPlanPhase": "default"} | fields)


def test_a_draft_is_shown_as_it_was_sent_and_may_change(shop: TestClient) -> None:
    made = create(shop, metadata={"a": 1})
    expected = an_addon_document(metadata={"a": 1}) | {"version": 1, "status": "draft"}
    assert {name: made[name] for name in expected} == expected
    assert "effectiveFrom" not in made
    changed = shop.patch(f"/v1/addons/{made['id']}", json={"name": "Places", "metadata": None})
    assert (changed.json()["name"], changed.json()["metadata"]) == ("Places", {})
    replaced = shop.put(f"/v1/addons/{made['id']}", json=an_addon_document(key="other", currency="EUR"))
    assert set(faults(replaced)) == {"/key", "/currency"}
    assert shop.put(f"/v1/addons/{made['id']}", json=an_addon_document(instanceType="single")).status_code == 200
    assert shop.get("/v1/addons/seats").json()["instanceType"] == "single"
    assert shop.delete(f"/v1/addons/{made['id']}").status_code == 204
    assert shop.get("/v1/addons/seats").json()["code"] == "addon_not_found"


def test_what_is_published_never_changes_and_a_new_version_takes_its_place(shop: TestClient) -> None:
    first = published(shop)
    assert first["status"] == "active"
    for answer in (
        shop.put(f"/v1/addons/{first['id']}", json=an_addon_document()),
        shop.patch(f"/v1/addons/{first['id']}", json={"name": "x"}),
        shop.delete(f"/v1/addons/{first['id']}"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "addon_published")
    assert set(faults(shop.post("/v1/addons", json=an_addon_document(currency="EUR")))) == {"/currency"}
    second = create(shop, name="Seats 2")
    assert second["version"] == 2
    assert shop.post("/v1/addons", json=an_addon_document()).json()["code"] == "addon_draft_exists"
    assert shop.get("/v1/addons/seats").json()["id"] == first["id"]
    shop.post(f"/v1/addons/{second['id']}/publish")
    assert [(one["version"], one["status"]) for one in shop.get("/v1/addons?key=seats").json()["items"]] == [
        (1, "archived"),
        (2, "active"),
    ]
    assert shop.get("/v1/addons/seats").json()["id"] == second["id"]
    assert shop.get("/v1/addons/seats?version=1").json()["id"] == first["id"]
    assert shop.post(f"/v1/addons/{first['id']}/publish").json()["code"] == "addon_archived"


def test_they_are_listed_by_state_and_currency(shop: TestClient) -> None:
    archived = published(shop, key="a")
    published(shop, key="b", currency="EUR")
    create(shop, key="c")
    shop.post(f"/v1/addons/{archived['id']}/archive")
    for query, keys in {
        "": ["a", "b", "c"],
        "?status=active": ["b"],
        "?status=draft": ["c"],
        "?status=archived": ["a"],
        "?currency=EUR": ["b"],
    }.items():
        assert [one["key"] for one in shop.get(f"/v1/addons{query}").json()["items"]] == keys


def test_every_fault_is_listed_with_its_place(shop: TestClient) -> None:
    answer = shop.post("/v1/addons", json=an_addon_document(a_card(price={"type": "x"}), instanceType="x"))
    assert set(faults(answer)) == {"/instanceType", "/rateCards/0/price/type"}


def test_publication_looks_again_at_features_that_were_archived_meanwhile(shop: TestClient) -> None:
    card = a_card(type="flat_fee", key="premium", featureKey="premium", entitlementTemplate={"type": "boolean"})
    made = create(shop, rateCards=[card])
    assert shop.delete("/v1/features/premium").status_code == 204
    assert set(faults(shop.post(f"/v1/addons/{made['id']}/publish"))) == {"/rateCards/0/featureKey"}


def test_a_feature_that_an_addon_on_sale_has_cannot_be_archived(shop: TestClient) -> None:
    card = a_card(type="flat_fee", key="premium", featureKey="premium", entitlementTemplate={"type": "boolean"})
    published(shop, rateCards=[card])
    assert shop.delete("/v1/features/premium").json()["code"] == "feature_in_use"


def test_a_plan_offers_an_addon_until_it_is_withdrawn(shop: TestClient) -> None:
    published(shop)
    plan = plan_id(shop)
    made = offer(shop, plan, maxQuantity=5)
    assert (made.status_code, made.json()["addon"]["key"], made.json()["maxQuantity"]) == (201, "seats", 5)
    assert offer(shop, plan).json()["code"] == "plan_addon_exists"
    assert [one["fromPlanPhase"] for one in shop.get("/v1/plans/free/addons").json()["items"]] == ["default"]
    assert shop.get("/v1/plans/free/addons/seats").json() == made.json()
    assert shop.delete(f"/v1/plans/{plan}/addons/seats").status_code == 204
    assert shop.get("/v1/plans/free/addons").json()["items"] == []
    assert shop.delete(f"/v1/plans/{plan}/addons/seats").json()["code"] == "plan_addon_not_found"
    assert offer(shop, plan).status_code == 201


def test_an_offer_of_another_version_takes_the_place_of_the_first(shop: TestClient) -> None:
    first, plan = published(shop), plan_id(shop)
    offer(shop, plan)
    second = published(shop)
    assert offer(shop, plan, addon={"key": "seats", "version": 1}).json()["code"] == "addon_not_active"
    assert offer(shop, plan).status_code == 201
    assert [one["addon"]["id"] for one in shop.get("/v1/plans/free/addons").json()["items"]] == [second["id"]]
    assert first["id"] != second["id"]


def test_what_cannot_be_offered(shop: TestClient) -> None:
    draft, plan = create(shop), plan_id(shop)
    assert offer(shop, plan).json()["code"] == "addon_not_active"
    assert set(faults(offer(shop, plan, addon={"key": "nothing"}))) == {"/addon"}
    shop.post(f"/v1/addons/{draft['id']}/publish")
    assert set(faults(offer(shop, plan, fromPlanPhase="later"))) == {"/fromPlanPhase"}
    assert set(faults(offer(shop, plan, maxQuantity=0))) == {"/maxQuantity"}
    shop.post(f"/v1/plans/{plan}/archive")
    assert offer(shop, plan).json()["code"] == "plan_archived"


def test_the_next_version_of_a_plan_begins_with_the_offers_that_still_fit(shop: TestClient) -> None:
    priced = a_card(price={"type": "unit", "amount": "1"}, entitlementTemplate=None)
    published(shop)
    published(shop, key="overage", rateCards=[priced])
    plan = plan_id(shop)
    offer(shop, plan, maxQuantity=3)
    offer(shop, plan, addon={"key": "overage"})
    second = shop.post("/v1/plans", json=a_plan(a_card(price={"type": "unit", "amount": "2"}))).json()
    offers = shop.get(f"/v1/plans/{second['id']}/addons").json()["items"]
    assert [(one["addon"]["key"], one["maxQuantity"]) for one in offers] == [("seats", 3)]


def test_what_is_not_sold_any_more_is_not_offered_by_the_next_version(shop: TestClient) -> None:
    first = published(shop)
    offer(shop, plan_id(shop))
    shop.post(f"/v1/addons/{first['id']}/archive")
    second = shop.post("/v1/plans", json=a_plan()).json()
    assert shop.get(f"/v1/plans/{second['id']}/addons").json()["items"] == []


def test_a_draft_that_no_longer_fits_what_it_offers_is_not_published(shop: TestClient) -> None:
    published(shop, key="overage", rateCards=[a_card(price={"type": "unit", "amount": "1"})])
    draft = shop.post("/v1/plans", json=a_plan(key="pro")).json()["id"]
    assert offer(shop, draft, addon={"key": "overage"}).status_code == 201
    shop.put(f"/v1/plans/{draft}", json=a_plan(a_card(price={"type": "unit", "amount": "2"}), key="pro"))
    (detail,) = faults(shop.post(f"/v1/plans/{draft}/publish")).values()
    assert "offers the add-on 'overage'" in detail
    assert "paid for twice" in detail
    assert shop.delete(f"/v1/plans/{draft}").status_code == 204


def test_what_is_done_to_addons_stands_in_the_log(shop: TestClient) -> None:
    published(shop)
    plan = plan_id(shop)
    offer(shop, plan)
    shop.delete(f"/v1/plans/{plan}/addons/seats")
    entries = [
        entry["action"]
        for kind in ("addon", "plan_addon")
        for entry in shop.get(f"/v1/audit?objectType={kind}").json()["items"]
    ]
    assert entries == ["addon.change", "addon.create", "plan_addon.change", "plan_addon.create"]


@pytest.mark.parametrize("path", ["/v1/addons", "/v1/addons/{id}/publish", "/v1/plans/{plan}/addons"])
def test_a_post_that_is_repeated_takes_effect_once(shop: TestClient, path: str) -> None:
    made = create(shop) if "{id}" in path else published(shop, key="seats") if "plans" in path else {"id": ""}
    body = an_addon_document() if path == "/v1/addons" else {"addon": {"key": "seats"}, "fromPlanPhase": "default"}
    url = path.format(id=made["id"], plan=plan_id(shop))
    first, second = (shop.post(url, json=body, headers={"Idempotency-Key": "once"}) for _ in range(2))
    assert first.json() == second.json()
    assert second.headers["Idempotency-Replayed"] == "true"
