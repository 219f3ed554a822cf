"""A catalog document over HTTP, on a real database: all of it or nothing."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

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
    }
    extended = a_catalog(
        policies=[*a_catalog()["policies"], {"key": "open"}],
        features=[*a_catalog()["features"], slice_],
        plans=[
            a_plan(a_card(price={"type": "unit", "amount": "0.10"}), rateLimit={"requests": 5, "per": "PT10S"}),
            a_plan(key="open", metadata={"popular": "true"}, settlementMode="credit_then_invoice"),
        ],
    )
    apply(client, extended, publish=True)
    apply(client, extended | {"plans": [a_plan(key="draft")]})
    exported = client.get("/v1/catalog").json()
    assert [plan["key"] for plan in exported["plans"]] == ["draft", "free", "open"]
    assert {item["action"] for item in apply(elsewhere, exported)} == {"created"}
    for portal in (client, elsewhere):
        assert news(apply(portal, exported, dryRun=True, prune=True)) == []
    assert elsewhere.get("/v1/catalog").json() == exported


def test_a_stranger_sees_and_changes_nothing(client: TestClient) -> None:
    for method, path in (("GET", "/v1/catalog"), ("POST", "/v1/catalog/apply")):
        assert client.request(method, path, headers={"Authorization": "Bearer nobody"}).status_code == 401
