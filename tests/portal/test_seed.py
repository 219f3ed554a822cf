from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from farebox.v1 import digest
from farebox_portal.clock import FrozenClock
from farebox_portal.db import transaction
from farebox_portal.seed import CUSTOMERS, SeededCustomer, seed
from farebox_portal.settings import Settings
from farebox_portal.tables import metadata


def run(engine: Engine, settings: Settings, clock: FrozenClock) -> dict[str, SeededCustomer]:
    with transaction(engine) as session:
        return seed(session, settings, clock.now())


def contents(engine: Engine) -> dict[str, list[Any]]:
    with engine.connect() as connection:
        return {
            table: sorted(map(repr, connection.execute(text(f"SELECT * FROM {table}")))) for table in metadata.tables
        }


def test_everybody_gets_a_key_that_leads_to_their_plan(
    engine: Engine, settings: Settings, clock: FrozenClock, client: TestClient
) -> None:
    seeded = run(engine, settings, clock)
    assert list(seeded) == list(CUSTOMERS)
    for plan, one in seeded.items():
        assert one.api_key is not None
        assert digest.is_well_formed(one.api_key)
        assert one.api_key not in repr(one)
        subscription = client.get(f"/v1/subscriptions/{one.subscription_id}").json()
        assert (subscription["plan"]["key"], subscription["status"]) == (plan, "active")
        assert client.get(f"/v1/customers/{plan}").json()["primaryEmail"] == one.email


def test_the_second_time_nothing_changes(engine: Engine, settings: Settings, clock: FrozenClock) -> None:
    first = run(engine, settings, clock)
    before = contents(engine)
    second = run(engine, settings, clock)
    assert contents(engine) == before
    assert all(one.api_key is None for one in second.values())
    assert {name: one.subscription_id for name, one in second.items()} == {
        name: one.subscription_id for name, one in first.items()
    }


def test_what_an_operator_changed_is_left_alone(
    engine: Engine, settings: Settings, clock: FrozenClock, client: TestClient
) -> None:
    run(engine, settings, clock)
    client.put("/v1/policies/chat", json={"meters": {"api_requests": 5}})
    subscription = client.get("/v1/subscriptions?customerId=free").json()["items"][0]["id"]
    client.post(f"/v1/subscriptions/{subscription}/cancel")
    run(engine, settings, clock)
    assert client.get("/v1/policies/chat").json()["meters"] == {"api_requests": 5}
    assert client.get("/v1/subscriptions?customerId=free").json()["totalCount"] == 1


def test_every_policy_and_the_default_can_be_met_by_a_plan(
    engine: Engine, settings: Settings, clock: FrozenClock, client: TestClient
) -> None:
    """Else the demo's customers would be refused with `not_entitled` on a route that they pay for."""
    run(engine, settings, clock)
    for plan in client.get("/v1/plans").json()["items"]:
        granted = {card["key"] for card in plan["phases"][0]["rateCards"]}
        for policy in client.get("/v1/policies").json()["items"]:
            assert set(policy["meters"]) <= granted, (plan["key"], policy["key"])
        assert ("premium" in granted) == (plan["key"] == "pro")
