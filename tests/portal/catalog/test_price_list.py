from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from builders.databases import DIALECTS, Databases
from builders.documents import a_card, a_plan

PHASES = [
    {"key": "trial", "name": "Trial", "duration": "P1W", "rateCards": [a_card()]},
    {"key": "default", "name": "Default", "rateCards": [a_card()]},
]


@pytest.fixture(scope="module", params=DIALECTS)
def databases(request: pytest.FixtureRequest, engines: Callable[[str], Databases]) -> Databases:
    """The order is the database's work."""
    return engines(request.param)


def put_on_sale(shop: TestClient, key: str) -> None:
    made = shop.post("/v1/plans", json=a_plan(key=key, phases=PHASES)).json()
    assert shop.post(f"/v1/plans/{made['id']}/publish").status_code == 200


def test_it_has_what_is_on_sale_in_the_operators_order(shop: TestClient) -> None:
    for key in ("pro", "team", "gone"):
        put_on_sale(shop, key)
    shop.post("/v1/plans", json=a_plan(key="draft"))
    shop.post(f"/v1/plans/{shop.get('/v1/plans/gone').json()['id']}/archive")
    shop.put("/v1/monetization-configuration", json={"planOrder": ["team", "gone"]})
    answer = shop.get("/v1/price-list").json()
    assert [plan["key"] for plan in answer["items"]] == ["team", "free", "pro"]
    assert answer["items"][1] == shop.get("/v1/plans/free").json()
    assert [plan["key"] for plan in shop.get("/v1/price-list?pageSize=2&page=2").json()["items"]] == ["pro"]


def test_it_shows_the_phases_that_are_meant_to_be_seen(shop: TestClient) -> None:
    for key in ("pro", "team", "quiet"):
        put_on_sale(shop, key)
    settings = {"pro": {"visiblePhases": ["default"]}, "team": {}, "quiet": {"visiblePhases": []}}
    shop.put("/v1/monetization-configuration", json={"planSettings": settings})
    shown = {
        plan["key"]: [phase["key"] for phase in plan["phases"]] for plan in shop.get("/v1/price-list").json()["items"]
    }
    assert shown == {"free": ["default"], "pro": ["default"], "quiet": [], "team": ["trial", "default"]}
    assert len(shop.get("/v1/plans/pro").json()["phases"]) == 2
