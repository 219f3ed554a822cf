from typing import Any

import pytest
from fastapi.testclient import TestClient

from builders.documents import a_plan
from builders.documents import faults as faults_of
from farebox_portal.catalog.configuration import faults

PATH = "/v1/monetization-configuration"
DEFAULTS: dict[str, Any] = {
    "multipleSubscriptionsEnabled": False,
    "planOrder": [],
    "planSettings": {},
    "maxPaymentOverdueDays": 3,
}
PHASES = {"free": frozenset({"default"}), "pro": frozenset({"trial", "default"})}


def test_there_is_always_a_configuration(shop: TestClient) -> None:
    assert shop.get(PATH).json() == DEFAULTS


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_what_is_left_out_stays_and_null_goes_back(shop: TestClient, method: str) -> None:
    assert shop.request(method, PATH, json={"maxPaymentOverdueDays": 0, "planOrder": ["free"]}).status_code == 200
    changed = shop.request(method, PATH, json={"multipleSubscriptionsEnabled": True, "planOrder": None}).json()
    assert changed == DEFAULTS | {"multipleSubscriptionsEnabled": True, "maxPaymentOverdueDays": 0}
    assert shop.get(PATH).json() == changed


def test_settings_of_plans_are_shown_as_they_were_sent(shop: TestClient) -> None:
    settings = {"free": {"visiblePhases": ["default"]}}
    assert shop.put(PATH, json={"planSettings": settings}).json()["planSettings"] == settings
    assert shop.put(PATH, json={"planSettings": {"free": {}}}).json()["planSettings"] == {"free": {}}
    assert shop.put(PATH, json={"planSettings": {"free": {"visiblePhases": []}}}).json()["planSettings"] == {
        "free": {"visiblePhases": []}
    }


def test_it_can_be_reset(shop: TestClient) -> None:
    assert shop.delete(PATH).status_code == 204
    shop.put(PATH, json={"maxPaymentOverdueDays": 9})
    assert shop.delete(PATH).status_code == 204
    assert shop.get(PATH).json() == DEFAULTS


@pytest.mark.parametrize(
    ("document", "pointers"),
    [
        ({}, [""]),
        ([], [""]),
        ({"planOrder": ["free", "none", "free"]}, ["/planOrder/1", "/planOrder/2"]),
        ({"planOrder": "free"}, ["/planOrder"]),
        ({"planOrder": [["free"]]}, ["/planOrder/0"]),
        ({"planOrder": [f"p{n}" for n in range(201)]}, ["/planOrder"]),
        ({"planSettings": {"none": {"visiblePhases": ["x"]}}}, ["/planSettings/none"]),
        (
            {"planSettings": {"free": {"visiblePhases": ["trial"]}, "pro": {"visiblePhases": ["trial"]}}},
            ["/planSettings/free/visiblePhases/0"],
        ),
        ({"planSettings": {"free": {"hidden": True}}}, ["/planSettings/free/hidden"]),
        ({"planSettings": {"free": None}}, ["/planSettings/free"]),
        ({"multipleSubscriptionsEnabled": "yes", "color": 1}, ["/multipleSubscriptionsEnabled", "/color"]),
        ({"maxPaymentOverdueDays": -1}, ["/maxPaymentOverdueDays"]),
        ({"maxPaymentOverdueDays": 366}, ["/maxPaymentOverdueDays"]),
        ({"maxPaymentOverdueDays": True}, ["/maxPaymentOverdueDays"]),
    ],
)
def test_each_fault_has_its_place(document: Any, pointers: list[str]) -> None:
    assert [fault["pointer"] for fault in faults(document, PHASES)] == pointers


def test_a_fault_changes_nothing(shop: TestClient) -> None:
    refused = shop.put(PATH, json={"maxPaymentOverdueDays": 9, "planOrder": ["none"]})
    assert faults_of(refused) == {"/planOrder/0": "there is no such plan"}
    assert shop.get(PATH).json() == DEFAULTS


def test_phases_of_every_version_are_known(shop: TestClient) -> None:
    trial = {"key": "trial", "name": "T", "duration": "P1W", "rateCards": a_plan()["phases"][0]["rateCards"]}
    shop.post("/v1/plans", json=a_plan(phases=[trial, *a_plan()["phases"]]))
    wanted = {"planSettings": {"free": {"visiblePhases": ["default", "trial"]}}}
    assert shop.put(PATH, json=wanted).status_code == 200
