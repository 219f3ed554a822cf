"""A catalog document over HTTP, on a real database: all of it or nothing."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from builders.addons import a_seat_fee, an_addon_document
from builders.databases import DIALECTS, Databases
from builders.documents import a_card, a_plan, faults
from farebox_portal.app import create_app
from farebox_portal.clock import FrozenClock
from farebox_portal.settings import Settings

Document = dict[str, Any]


@pytest.fixture(scope="session", params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def a_catalog(**fields: Any) -> Document:
    """One of each, named backwards: the order does not matter."""
    return {
        "plans": [a_plan(a_card(price={"type": "unit", "amount": "0.10"}))],
        "policies": [{"key": "double", "meters": {"api_requests": 2}, "requiredEntitlements": ["premium"]}],
        "features": [
            {"key": "api_requests", "name": "API requests", "meterSlug": "api_requests"},
            {"key": "premium", "name": "Premium"},
        ],
        "meters": [{"slug": "api_requests", "aggregation": "COUNT", "groupBy": {"model": "$.model"}}],
    } | fields


def extras(**fields: Any) -> Document:
    """Seats that the plan offers, and a coupon."""
    return {
        "addons": [an_addon_document()],
        "planAddons": [{"plan": "free", "addon": "seats", "fromPlanPhase": "default", "maxQuantity": 5}],
        "coupons": [{"code": "ten", "percentOff": 10, "duration": "once", "redeemBy": "2026-03-01T01:00:00+01:00"}],
    } | fields


def apply(client: TestClient, document: Document, **options: bool) -> list[Document]:
    answer = client.post("/v1/catalog/apply", json=document | options)
    assert answer.status_code == 200, answer.text
    items: list[Document] = answer.json()["items"]
    return items


def news(items: list[Document]) -> list[tuple[str, str, str]]:
    return [(item["kind"], item["key"], item["action"]) for item in items if item["action"] != "unchanged"]


def audited(client: TestClient) -> int:
    return int(client.get("/v1/audit").json()["totalCount"])


def test_everything_is_made_in_the_order_that_it_needs(client: TestClient) -> None:
    assert news(apply(client, a_catalog())) == [
        ("meter", "api_requests", "created"),
        ("feature", "api_requests", "created"),
        ("feature", "premium", "created"),
        ("policy", "double", "created"),
        ("plan", "free", "created"),
    ]
    assert client.get("/v1/plans/free").json()["status"] == "draft"
    assert client.get("/v1/policies/double").json()["meters"] == {"api_requests": 2}


def test_applied_twice_it_changes_nothing_and_writes_nothing(client: TestClient) -> None:
    apply(client, a_catalog(), publish=True)
    before = audited(client)
    meter = client.get("/v1/meters/api_requests").json()
    assert news(apply(client, a_catalog(), publish=True, prune=True)) == []
    assert audited(client) == before
    assert client.get("/v1/meters/api_requests").json() == meter
    assert client.get("/v1/plans").json()["totalCount"] == 1


def test_what_another_way_of_writing_says_is_no_change(client: TestClient) -> None:
    apply(client, a_catalog(), publish=True)
    same = a_card(
        price={"type": "unit", "amount": 0.1},
        entitlementTemplate={"type": "metered", "issueAfterReset": 100, "isSoftLimit": False},
        description=None,
    )
    meters = [{"slug": "api_requests", "name": "api_requests", "eventType": "api_requests", **a_catalog()["meters"][0]}]
    assert news(apply(client, a_catalog(plans=[a_plan(same, metadata={})], meters=meters))) == []


def test_a_plan_on_sale_that_changes_becomes_a_new_version(client: TestClient) -> None:
    apply(client, a_catalog(), publish=True)
    dearer = a_catalog(plans=[a_plan(a_card(price={"type": "unit", "amount": "0.20"}))])
    (plan,) = [item for item in apply(client, dearer) if item["kind"] == "plan"]
    assert (plan["action"], plan["version"], plan["status"]) == ("changed", 2, "draft")
    assert plan["changes"] == [
        {"pointer": "/phases/default/rateCards/api_requests/price/amount", "before": "0.10", "after": "0.20"}
    ]
    assert client.get("/v1/plans/free").json()["version"] == 1, "still on sale"
    (plan,) = [item for item in apply(client, dearer, publish=True) if item["kind"] == "plan"]
    assert (plan["version"], plan["status"], plan["published"]) == (2, "active", True)
    assert [one["status"] for one in client.get("/v1/plans").json()["items"]] == ["archived", "active"]


def test_a_draft_is_replaced_and_published_when_asked(client: TestClient) -> None:
    apply(client, a_catalog())
    renamed = a_catalog(plans=[a_plan(a_card(), name="Gratis")])
    assert news(apply(client, renamed)) == [("plan", "free", "changed")]
    (plan,) = [item for item in apply(client, renamed, publish=True) if item["kind"] == "plan"]
    assert (plan["action"], plan["version"], plan.get("published")) == ("unchanged", 1, True)


def test_what_may_change_of_a_meter_and_a_policy_changes(client: TestClient) -> None:
    apply(client, a_catalog())
    changed = a_catalog(
        meters=[{"slug": "api_requests", "name": "Calls", "aggregation": "COUNT"}],
        policies=[{"key": "double", "meters": {"api_requests": 3}}, {"key": "default", "meters": {"api_requests": 5}}],
    )
    assert news(apply(client, changed)) == [
        ("meter", "api_requests", "changed"),
        ("policy", "double", "changed"),
        ("policy", "default", "created"),
    ]
    assert client.get("/v1/meters/api_requests").json()["groupBy"] == {}
    assert client.get("/v1/policies/double").json()["requiredEntitlements"] == []


def test_the_built_in_policy_need_not_be_stored(client: TestClient) -> None:
    document = a_catalog(policies=[{"key": "default", "meters": {"api_requests": 1}}])
    assert ("policy", "default", "created") not in news(apply(client, document))


def test_every_fault_of_every_item_is_in_one_answer_and_nothing_is_written(client: TestClient) -> None:
    answer = client.post(
        "/v1/catalog/apply",
        json={
            "meters": [{"slug": "api_requests", "aggregation": "COUNT"}, {"slug": "BAD", "aggregation": "COUNT"}],
            "features": [{"key": "f", "name": "F", "meterSlug": "none"}, {"key": "f", "name": "F"}, 3],
            "policies": [{"key": "p", "meters": {"none": 1}}],
            "plans": [a_plan(a_card(), billingCadence="P2M")],
            "prune": True,
        },
    )
    found = faults(answer)
    assert {place.rpartition("/")[0] if "BAD" in place else place for place in found} == {
        "/meters/1/slug",
        "/features/0/meterSlug",
        "/features/1/key",
        "/features/2",
        "/policies/0/meters/none",
        "/plans/0/billingCadence",
        "/plans/0/phases/0/rateCards/0/featureKey",
    }
    assert client.get("/v1/meters").json()["totalCount"] == 0
    assert audited(client) == 0


def test_what_cannot_change_says_so_with_its_place(client: TestClient) -> None:
    apply(client, a_catalog(), publish=True)
    changed = a_catalog(
        meters=[{"slug": "api_requests", "aggregation": "SUM", "valueProperty": "$.n"}],
        features=[{"key": "premium", "name": "Not the same"}],
        plans=[a_plan(currency="EUR")],
    )
    assert set(faults(client.post("/v1/catalog/apply", json=changed))) == {
        "/meters/0/aggregation",
        "/meters/0/valueProperty",
        "/features/0/name",
        "/plans/0/currency",
    }


def test_a_deleted_meters_slug_is_a_fault_and_not_a_surprise(client: TestClient) -> None:
    client.post("/v1/meters", json={"slug": "gone", "aggregation": "COUNT"})
    client.delete("/v1/meters/gone")
    answer = client.post("/v1/catalog/apply", json={"meters": [{"slug": "gone", "aggregation": "COUNT"}]})
    assert "was deleted" in faults(answer)["/meters/0"]


def test_a_dry_run_says_the_same_and_writes_nothing(client: TestClient) -> None:
    dry = client.post("/v1/catalog/apply", json=a_catalog(dryRun=True), headers={"Idempotency-Key": "once"}).json()
    assert dry["dryRun"] is True
    assert client.get("/v1/meters").json()["totalCount"] == audited(client) == 0
    assert apply(client, a_catalog()) == dry["items"]


def test_a_key_of_idempotency_gives_the_first_answer_again(client: TestClient) -> None:
    headers = {"Idempotency-Key": "once"}
    first = client.post("/v1/catalog/apply", json=a_catalog(), headers=headers)
    again = client.post("/v1/catalog/apply", json=a_catalog(), headers=headers)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"


def test_nothing_goes_unless_pruned_and_then_only_of_sections_that_are_there(client: TestClient) -> None:
    apply(client, a_catalog(), publish=True)
    only = {"plans": [], "policies": []}
    assert news(apply(client, only)) == []
    assert news(apply(client, only, prune=True)) == [("plan", "free", "removed"), ("policy", "double", "removed")]
    assert client.get("/v1/plans/free").json()["status"] == "archived"
    assert client.get("/v1/meters").json()["totalCount"] == 1
    assert news(apply(client, {"meters": [], "features": []}, prune=True)) == [
        ("feature", "api_requests", "removed"),
        ("feature", "premium", "removed"),
        ("meter", "api_requests", "removed"),
    ]


def test_what_is_still_in_use_is_not_pruned(client: TestClient) -> None:
    apply(client, a_catalog(), publish=True)
    answer = client.post("/v1/catalog/apply", json={"features": [], "prune": True})
    said = {fault["detail"] for fault in answer.json()["errors"]}
    assert said == {
        "The plan 'free' has it and is on sale; archive that first.",
        "The policy 'double' asks for it; change that first.",
    }
    assert set(faults(answer)) == {"/features"}
    assert client.get("/v1/features").json()["totalCount"] == 2


def test_a_draft_that_is_pruned_is_deleted(client: TestClient) -> None:
    apply(client, a_catalog())
    apply(client, {"plans": []}, prune=True)
    assert client.get("/v1/plans").json()["totalCount"] == 0


# --- add-ons, who offers them, and coupons ---------------------------------------------------------------------------


def offered(client: TestClient) -> list[tuple[int, int | None]]:
    """(version, most) of each add-on that the plan on sale offers."""
    offers = client.get("/v1/plans/free/addons").json()["items"]
    return [(one["addon"]["version"], one.get("maxQuantity")) for one in offers]


def test_addons_are_offered_and_coupons_made_after_what_they_need(client: TestClient) -> None:
    items = apply(client, extras() | a_catalog(), publish=True)
    assert news(items)[-4:] == [
        ("addon", "seats", "created"),
        ("plan", "free", "created"),
        ("plan_addon", "free/seats", "created"),
        ("coupon", "TEN", "created"),
    ]
    assert offered(client) == [(1, 5)]
    assert client.get("/v1/coupons/TEN").json()["percentOff"] == "10"
    before = audited(client)
    assert news(apply(client, extras() | a_catalog(), publish=True, prune=True)) == []
    assert audited(client) == before


def test_an_addon_on_sale_that_changes_becomes_a_new_version_and_its_offers_follow(client: TestClient) -> None:
    apply(client, extras() | a_catalog(), publish=True)
    dearer = extras(addons=[an_addon_document(a_seat_fee("12"))]) | a_catalog()
    assert news(apply(client, dearer)) == [("addon", "seats", "changed")]
    assert news(apply(client, dearer)) == [], "the draft says so already"
    assert offered(client) == [(1, 5)], "it is a draft"
    items = [item for item in apply(client, dearer, publish=True) if item["key"] in ("seats", "free/seats")]
    assert [(item["version"], item["action"], item.get("published")) for item in items] == [
        (2, "unchanged", True),
        (2, "changed", None),
    ]
    assert offered(client) == [(2, 5)]
    assert [one["status"] for one in client.get("/v1/addons").json()["items"]] == ["archived", "active"]


def test_a_draft_of_a_plan_that_says_the_same_is_not_written_again(client: TestClient) -> None:
    apply(client, a_catalog(), publish=True)
    renamed = a_catalog(plans=[a_plan(a_card(), name="Gratis")])
    assert news(apply(client, renamed)) == [("plan", "free", "changed")]
    before = audited(client)
    assert news(apply(client, renamed)) == []
    assert audited(client) == before
    (plan,) = [item for item in apply(client, renamed, publish=True) if item["kind"] == "plan"]
    assert (plan["version"], plan["published"]) == (2, True)


def test_the_offer_of_a_draft_waits_for_its_publication(client: TestClient) -> None:
    both = extras() | a_catalog()
    assert ("plan_addon", "free/seats", "pending") in news(apply(client, both))
    assert offered(client) == []
    assert ("plan_addon", "free/seats", "created") in news(apply(client, both, publish=True))
    wrong = both | {"addons": [an_addon_document(key="later")]}
    wrong["planAddons"] = [{"plan": "free", "addon": "later", "fromPlanPhase": "never"}]
    assert set(faults(client.post("/v1/catalog/apply", json=wrong))) == {"/planAddons/0/fromPlanPhase"}


def test_an_offer_may_change_and_goes_to_the_version_that_the_files_are_about(client: TestClient) -> None:
    apply(client, extras() | a_catalog(), publish=True)
    more = [{"plan": "free", "addon": "seats", "fromPlanPhase": "default", "maxQuantity": 9, "metadata": {"a": 1}}]
    (item,) = [one for one in apply(client, {"planAddons": more}) if one["kind"] == "plan_addon"]
    assert [(part["pointer"], part.get("before"), part.get("after")) for part in item["changes"]] == [
        ("/maxQuantity", 5, 9),
        ("/metadata", None, {"a": 1}),
    ]
    assert offered(client) == [(1, 9)]
    renamed = a_catalog(plans=[a_plan(a_card(), name="Gratis")])
    fewer = [{"plan": "free", "addon": "seats", "fromPlanPhase": "default", "maxQuantity": 2}]
    apply(client, renamed | {"planAddons": fewer})
    draft = client.get("/v1/plans?status=draft").json()["items"][0]["id"]
    assert [one["maxQuantity"] for one in client.get(f"/v1/plans/{draft}/addons").json()["items"]] == [2]
    assert offered(client) == [(1, 9)], "what is on sale waits for the draft"


def test_a_coupon_is_what_was_promised_and_never_changes(client: TestClient) -> None:
    coupons = {"coupons": [{"code": "FIVE", "amountOff": "5", "currency": "USD", "duration": "forever"}]}
    apply(client, coupons)
    same = {"coupons": [{"code": "five", "name": "FIVE", "amountOff": 5.0, "currency": "USD", "duration": "forever"}]}
    assert news(apply(client, same)) == []
    other = {"coupons": [{"code": "five", "amountOff": "6", "currency": "USD", "duration": "once"}]}
    assert set(faults(client.post("/v1/catalog/apply", json=other))) == {"/coupons/0/amountOff", "/coupons/0/duration"}
    assert news(apply(client, {"coupons": []}, prune=True)) == [("coupon", "FIVE", "removed")]
    assert set(faults(client.post("/v1/catalog/apply", json=coupons))) == {"/coupons/0/code"}


def test_what_nobody_can_redeem_any_more_is_neither_exported_nor_pruned(client: TestClient, clock: FrozenClock) -> None:
    apply(client, extras() | a_catalog(), publish=True)
    clock.advance(timedelta(days=60))
    assert client.get("/v1/catalog").json()["coupons"] == []
    assert news(apply(client, {"coupons": []}, prune=True)) == []
    assert news(apply(client, extras() | a_catalog(), publish=True)) == [], "what is there already stays"


def test_every_fault_of_addons_offers_and_coupons_has_its_place(client: TestClient) -> None:
    apply(client, a_catalog(), publish=True)
    seats, nothing = an_addon_document(), an_addon_document(a_card(featureKey="none", key="none"), key="x")
    wrong = {
        "addons": [seats, nothing, seats | {"currency": "usd", "key": "y"}, seats],
        "planAddons": [
            {"plan": "free", "addon": "seats", "fromPlanPhase": "default"},
            {"plan": "none", "addon": "nor_this", "fromPlanPhase": "default"},
            {"plan": "free", "addon": "seats", "fromPlanPhase": "default"},
            {"plan": "pro", "addon": "seats"},
        ],
        "coupons": [
            {"code": "A", "percentOff": 101, "duration": "once"},
            {"code": "B", "percentOff": 1, "duration": "once"},
            {"code": "b", "percentOff": 1, "duration": "once"},
        ],
    }
    before = audited(client)
    assert set(faults(client.post("/v1/catalog/apply", json=wrong))) == {
        "/addons/1/rateCards/0/featureKey",
        "/addons/2/currency",
        "/addons/3/key",
        "/planAddons/1/plan",
        "/planAddons/1/addon",
        "/planAddons/2/addon",
        "/planAddons/3/fromPlanPhase",
        "/coupons/0/percentOff",
        "/coupons/2/code",
    }
    assert audited(client) == before
    assert client.get("/v1/addons").json()["totalCount"] == client.get("/v1/coupons").json()["totalCount"] == 0


def test_offers_and_addons_are_pruned_before_the_features_they_have(client: TestClient) -> None:
    card = a_card(type="flat_fee", key="premium", featureKey="premium", entitlementTemplate={"type": "boolean"})
    apply(client, extras(addons=[an_addon_document(card)]) | a_catalog(policies=[]), publish=True)
    assert news(apply(client, {"planAddons": []}, prune=True)) == [("plan_addon", "free/seats", "removed")]
    assert offered(client) == []
    without = {"addons": [], "features": a_catalog()["features"][:1]}
    assert news(apply(client, without, prune=True)) == [
        ("addon", "seats", "removed"),
        ("feature", "premium", "removed"),
    ]
    assert client.get("/v1/addons/seats").json()["status"] == "archived"
    apply(client, {"addons": [an_addon_document(key="draft")]})
    apply(client, {"addons": []}, prune=True)
    assert client.get("/v1/addons/draft").status_code == 404


@pytest.fixture
def elsewhere(databases: Databases, settings: Settings, clock: FrozenClock, client: TestClient) -> Iterator[TestClient]:
    """Another portal, with nothing in it."""
    with databases.migrated() as engine:
        assert isinstance(engine, Engine)
        yield TestClient(create_app(settings, engine, clock), headers=client.headers)


def test_what_is_exported_and_applied_elsewhere_leaves_no_difference(client: TestClient, elsewhere: TestClient) -> None:
    slice_ = {
        "key": "gpt",
        "name": "GPT",
        "meterSlug": "api_requests",
        "advancedMeterGroupByFilters": {"model": {"$in": ["gpt-4", "gpt-5"]}},
        "unitCost": {"type": "llm", "provider": "openai", "modelProperty": "model"},
    }
    extended = a_catalog(
        policies=[*a_catalog()["policies"], {"key": "open"}],
        features=[*a_catalog()["features"], slice_],
        meters=[*a_catalog()["meters"], {"slug": "hits", "aggregation": "COUNT", "eventFrom": "2025-01-01T00:00:00Z"}],
        plans=[
            a_plan(a_card(price={"type": "unit", "amount": "0.10"}), rateLimit={"requests": 5, "per": "PT10S"}),
            a_plan(key="open", metadata={"popular": "true"}, settlementMode="credit_then_invoice"),
        ],
    )
    apply(client, extras() | extended, publish=True)
    apply(client, extended | {"plans": [a_plan(key="draft")]})
    exported = client.get("/v1/catalog").json()
    assert [plan["key"] for plan in exported["plans"]] == ["draft", "free", "open"]
    assert [one["code"] for one in exported["coupons"]] == ["TEN"]
    assert {item["action"] for item in apply(elsewhere, exported)} == {"created", "pending"}
    apply(elsewhere, {"addons": exported["addons"], "planAddons": exported["planAddons"]}, publish=True)
    for portal in (client, elsewhere):
        assert news(apply(portal, exported, dryRun=True, prune=True)) == []
    assert elsewhere.get("/v1/catalog").json() == exported


def test_a_stranger_sees_and_changes_nothing(client: TestClient) -> None:
    for method, path in (("GET", "/v1/catalog"), ("POST", "/v1/catalog/apply")):
        assert client.request(method, path, headers={"Authorization": "Bearer nobody"}).status_code == 401
