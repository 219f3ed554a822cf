from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from builders.databases import DIALECTS, Databases
from builders.documents import a_plan, faults
from builders.portal import NOW
from farebox_portal.catalog.tables import PlanInvite
from farebox_portal.db import transaction
from farebox_portal.ids import new_id


@pytest.fixture(scope="module", params=DIALECTS)
def databases(request: pytest.FixtureRequest, engines: Callable[[str], Databases]) -> Databases:
    """An index over a part of the rows is spelled by each engine in its own way."""
    return engines(request.param)


@pytest.fixture
def private(shop: TestClient) -> dict[str, Any]:
    """A private plan that is on sale beside the public `free`."""
    sent = a_plan(key="partner", metadata={"zuplo_private_plan": "true"})
    made = shop.post("/v1/plans", json=sent).json()
    published: dict[str, Any] = shop.post(f"/v1/plans/{made['id']}/publish", json={}).json()
    return published


def keys_for(shop: TestClient, email: str | None = None) -> list[str]:
    query = "" if email is None else f"?email={email}"
    return [plan["key"] for plan in shop.get(f"/v1/price-list{query}").json()["items"]]


def test_a_private_plan_is_seen_by_whom_it_is_offered_to(shop: TestClient, private: dict[str, Any]) -> None:
    assert keys_for(shop) == keys_for(shop, "ada@example.com") == ["free"]
    invite = shop.post("/v1/plan-invites", json={"email": "Ada@Example.com", "planId": private["id"]})
    assert invite.status_code == 201
    assert invite.json()["planKey"] == "partner"
    assert keys_for(shop, "ADA@example.com") == ["free", "partner"]
    assert keys_for(shop) == keys_for(shop, "eve@example.com") == ["free"]


def test_an_invitation_is_for_every_version(shop: TestClient, private: dict[str, Any]) -> None:
    shop.post("/v1/plan-invites", json={"email": "ada@example.com", "planId": "partner"})
    sent = a_plan(key="partner", name="Two", metadata={"zuplo_private_plan": True})
    second = shop.post("/v1/plans", json=sent).json()
    shop.post(f"/v1/plans/{second['id']}/publish")
    shown = shop.get("/v1/price-list?email=ada@example.com").json()["items"]
    assert [(plan["key"], plan["version"]) for plan in shown] == [("free", 1), ("partner", 2)]


def test_a_revoked_invitation_is_none(shop: TestClient, private: dict[str, Any]) -> None:
    sent = {"email": "ada@example.com", "planId": private["id"]}
    invite = shop.post("/v1/plan-invites", json=sent).json()
    for _ in range(2):
        assert shop.delete(f"/v1/plan-invites/{invite['id']}").status_code == 204
    assert keys_for(shop, "ada@example.com") == ["free"]
    assert shop.get("/v1/plan-invites").json()["totalCount"] == 0
    assert shop.post("/v1/plan-invites", json=sent).status_code == 201, "it can be given again"
    assert shop.delete("/v1/plan-invites/none").json()["code"] == "invite_not_found"


def test_invitations_are_listed_by_plan_and_address(shop: TestClient, private: dict[str, Any]) -> None:
    other = shop.post("/v1/plans", json=a_plan(key="beta", metadata={"zuplo_private_plan": "true"})).json()
    for email, plan in (("ada", private), ("bob", private), ("ada", other)):
        sent = {"email": f"{email}@example.com", "planId": plan["id"]}
        assert shop.post("/v1/plan-invites", json=sent).status_code == 201

    def listed(query: str) -> list[tuple[str, str]]:
        items = shop.get(f"/v1/plan-invites{query}").json()["items"]
        return [(item["email"].split("@")[0], item["planKey"]) for item in items]

    assert listed("?planId=partner") == [("ada", "partner"), ("bob", "partner")]
    assert listed("?email=ADA@example.com") == [("ada", "beta"), ("ada", "partner")]
    assert listed(f"?email=ada@example.com&planId={other['id']}") == [("ada", "beta")]
    assert shop.get("/v1/plan-invites?planId=none").status_code == 404


@pytest.mark.parametrize(
    ("change", "pointers"),
    [
        ({"email": "ada"}, ["/email"]),
        ({"planId": "none"}, ["/planId"]),
        ({"planId": None, "email": "x" * 250 + "@a.example"}, ["/email", "/planId"]),
        ({"role": "admin"}, ["/role"]),
    ],
)
def test_an_invitation_to_nobody_or_nothing_is_refused(
    shop: TestClient, private: dict[str, Any], change: dict[str, Any], pointers: list[str]
) -> None:
    sent = {"email": "ada@example.com", "planId": private["id"]} | change
    assert list(faults(shop.post("/v1/plan-invites", json=sent))) == pointers


def test_an_invitation_that_says_nothing_new_is_refused(shop: TestClient, private: dict[str, Any]) -> None:
    public = shop.post("/v1/plan-invites", json={"email": "ada@example.com", "planId": "free"})
    assert (public.status_code, public.json()["code"]) == (409, "plan_not_private")
    sent = {"email": "ada@example.com", "planId": private["id"]}
    shop.post("/v1/plan-invites", json=sent)
    again = shop.post("/v1/plan-invites", json=sent | {"email": "ADA@example.com"})
    assert (again.status_code, again.json()["code"]) == (409, "invite_exists")


def test_of_two_who_invite_at_the_same_time_one_is_refused(
    shop: TestClient, private: dict[str, Any], engine: Engine
) -> None:
    """Neither sees what the other is about to write: the index decides."""

    def an_invite(**fields: Any) -> PlanInvite:
        given = {"email": "ada@example.com", "plan_key": "partner", "plan_id": private["id"], "created_at": NOW}
        return PlanInvite(id=new_id(NOW), **(given | fields))

    with transaction(engine) as session:
        session.add_all([an_invite(), an_invite(revoked_at=NOW), an_invite(revoked_at=NOW), an_invite(email="b@b")])
    with pytest.raises(IntegrityError), transaction(engine) as session:
        session.add(an_invite())


def test_the_operator_sells_a_private_plan_to_anybody(shop: TestClient, private: dict[str, Any]) -> None:
    assert shop.post("/v1/subscriptions", json={"plan": {"key": "partner"}, "customerKey": "acme"}).status_code == 201


def test_an_invited_plan_that_became_public_stays_one(shop: TestClient, private: dict[str, Any]) -> None:
    draft = shop.post("/v1/plans", json=a_plan(key="partner")).json()
    shop.post(f"/v1/plans/{draft['id']}/publish")
    assert keys_for(shop) == ["free", "partner"]
