from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from builders.documents import faults as faults_of
from farebox_portal.catalog.policies import faults, parse_statuses

METERS = frozenset({"api_requests", "tokens"})
FEATURES = frozenset({"premium"})


def found(document: Any) -> dict[str, str]:
    return {fault["pointer"]: fault["detail"] for fault in faults(document, METERS, FEATURES)}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"meters": {"api_requests": 0}},
        {"meters": {"api_requests": 1, "tokens": "usage.totalTokens"}, "reserve": {"tokens": "request.maxTokens"}},
        {"meters": {"tokens": "usage.outputTokens"}, "reserve": {"tokens": 500}},
        {"meters": {"tokens": "request.bytes"}},
        {"meters": {"tokens": "response.bytes"}},
        {"meters": {"tokens": "json:data.images.length"}},
        {"meters": {"tokens": "json:data[0].count"}},
        {"meters": {"tokens": "header:x-credits"}},
        {"meters": {"tokens": "cel: usage.inputTokens * 2"}},
        {"meters": {"tokens": "python:pricing.images:count"}},
        {"dimensions": {"model": "usage.model", "region": "header:x-region"}},
        {"requiredEntitlements": ["premium"]},
        {"meters": {"api_requests": 1, "tokens": "usage.outputTokens"}, "cutOff": True},
        {"meters": {"api_requests": 1}, "cutOff": False},
        {"onStoreFailure": "allow", "meterOnStatusCodes": [200, "400-499"]},
        {"statusCodes": {"quota_exceeded": 429, "payment_required": 402, "missing_api_key": 403}},
    ],
)
def test_a_sound_policy_has_no_faults(document: dict[str, Any]) -> None:
    assert found({"key": "chat"} | document) == {}


@pytest.mark.parametrize(
    ("document", "pointer", "words"),
    [
        ({"key": "No Key"}, "/key", "pattern"),
        ({"meters": {}}, "/meters", "empty"),
        ({"meters": None}, "/meters", "null"),
        ({"meters": []}, "/meters", "dictionary"),
        ({"meters": {"none": 1}}, "/meters/none", "no such meter"),
        ({"meters": {"tokens": -1}}, "/meters/tokens", "0 (check only)"),
        ({"meters": {"tokens": "usage.inputTokens"}, "cutOff": True}, "/cutOff", "counted while a response passes"),
        ({"meters": {"tokens": "response.bytes"}, "cutOff": "yes"}, "/cutOff", "boolean"),
        ({"meters": {"tokens": True}}, "/meters/tokens", "whole number"),
        ({"meters": {"tokens": 1.5}}, "/meters/tokens", "whole number"),
        ({"meters": {"tokens": 2**53}}, "/meters/tokens", "2^53"),
        ({"meters": {"tokens": "5"}}, "/meters/tokens", "without quotes"),
        ({"meters": {"tokens": "usage.model"}}, "/meters/tokens", "inputTokens"),
        ({"meters": {"tokens": "usage.tokens"}}, "/meters/tokens", "inputTokens"),
        ({"meters": {"tokens": "usage."}}, "/meters/tokens", "must be usage."),
        ({"meters": {"tokens": "request.maxTokens"}}, "/meters/tokens", "reserve"),
        ({"meters": {"tokens": "json:"}}, "/meters/tokens", "json:PATH"),
        ({"meters": {"tokens": "json:a..b"}}, "/meters/tokens", "json:PATH"),
        ({"meters": {"tokens": "header:a b"}}, "/meters/tokens", "header:NAME"),
        ({"meters": {"tokens": "cel: "}}, "/meters/tokens", "cel:EXPRESSION"),
        ({"meters": {"tokens": "python:os.system"}}, "/meters/tokens", "python:MODULE:FUNCTION"),
        ({"meters": {"tokens": "eval:1"}}, "/meters/tokens", "must be usage."),
        ({"meters": {"tokens": "cel:" + "1" * 1024}}, "/meters/tokens", "1024"),
        ({"dimensions": {"model": 5}}, "/dimensions/model", "expression"),
        ({"dimensions": {"model": "model"}}, "/dimensions/model", "must be usage."),
        ({"meterOnStatusCodes": "*"}, "/meterOnStatusCodes", "failures"),
        ({"meterOnStatusCodes": ["200", "*"]}, "/meterOnStatusCodes", "failures"),
        ({"meterOnStatusCodes": ""}, "/meterOnStatusCodes", "no status"),
        ({"meterOnStatusCodes": []}, "/meterOnStatusCodes", "no status"),
        ({"meterOnStatusCodes": "2xx"}, "/meterOnStatusCodes", "HTTP statuses"),
        ({"meterOnStatusCodes": "299-200"}, "/meterOnStatusCodes", "lower"),
        ({"meterOnStatusCodes": 99}, "/meterOnStatusCodes", "HTTP statuses"),
        ({"meterOnStatusCodes": True}, "/meterOnStatusCodes", "string"),
        ({"requiredEntitlements": ["gold"]}, "/requiredEntitlements/0", "no such feature"),
        ({"reserve": {"tokens": 5}}, "/reserve/tokens", "only a meter with an expression"),
        ({"meters": {"tokens": 1}, "reserve": {"tokens": 5}}, "/reserve/tokens", "only a meter with an expression"),
        ({"meters": {"tokens": "usage.totalTokens"}, "reserve": {"tokens": "x"}}, "/reserve/tokens", "maxTokens"),
        ({"onStoreFailure": "maybe"}, "/onStoreFailure", "deny"),
        ({"statusCodes": {"quota_exceeded": 200}}, "/statusCodes/quota_exceeded", "greater"),
        ({"statusCodes": {"quota_exceeded": 600}}, "/statusCodes/quota_exceeded", "less"),
        ({"statusCodes": {"rate_limited": 400}}, "/statusCodes/rate_limited", "quota_exceeded"),
        ({"meter": {}}, "/meter", "known field"),
    ],
)
def test_each_rule_has_its_place(document: dict[str, Any], pointer: str, words: str) -> None:
    faults_found = found({"key": "chat"} | document)
    assert list(faults_found) == [pointer]
    assert words in faults_found[pointer]


@pytest.mark.parametrize(
    ("value", "ranges"),
    [
        ("200-299", [(200, 299)]),
        ("200,201, 404", [(200, 200), (201, 201), (404, 404)]),
        (200, [(200, 200)]),
        ([200, "400-499,500"], [(200, 200), (400, 499), (500, 500)]),
    ],
)
def test_statuses_are_read_as_ranges(value: Any, ranges: list[tuple[int, int]]) -> None:
    assert parse_statuses(value) == ranges


@given(st.text(max_size=20))
def test_no_text_breaks_the_check(text: str) -> None:
    found({"key": text, "meters": {"tokens": text}, "meterOnStatusCodes": text, "reserve": text, "dimensions": text})


def test_the_default_is_there_until_it_is_replaced_and_comes_back(shop: TestClient) -> None:
    built_in = shop.get("/v1/policies/default").json()
    assert built_in["meters"] == {"api_requests": 1}
    assert shop.get("/v1/policies").json()["items"] == [built_in]
    assert shop.put("/v1/policies/default", json={"meters": {"api_requests": 2}}).status_code == 201
    assert shop.get("/v1/policies/default").json()["meters"] == {"api_requests": 2}
    assert shop.get("/v1/policies").json()["totalCount"] == 1
    assert shop.delete("/v1/policies/default").status_code == 204
    assert shop.get("/v1/policies/default").json() == built_in
    assert shop.delete("/v1/policies/default").status_code == 404


def test_a_policy_is_created_replaced_and_deleted(shop: TestClient) -> None:
    document = {"key": "chat", "meters": {"api_requests": 1}}
    assert shop.post("/v1/policies", json=document).status_code == 201
    assert shop.post("/v1/policies", json=document).json()["code"] == "policy_key_taken"
    replaced = shop.put("/v1/policies/chat", json={})
    assert replaced.status_code == 200
    assert "meters" not in replaced.json()
    assert shop.delete("/v1/policies/chat").status_code == 204
    assert shop.get("/v1/policies/chat").status_code == 404


def test_the_key_in_the_path_is_the_key(shop: TestClient) -> None:
    assert list(faults_of(shop.put("/v1/policies/chat", json={"key": "other"}))) == ["/key"]
    assert list(faults_of(shop.put("/v1/policies/No-Key", json={}))) == ["/key"]


def test_a_refused_replacement_leaves_the_policy_as_it_was(shop: TestClient) -> None:
    shop.put("/v1/policies/chat", json={"meters": {"api_requests": 1}})
    before = shop.get("/v1/policies/chat").json()
    faults_of(shop.put("/v1/policies/chat", json={"meters": {}}))
    assert shop.get("/v1/policies/chat").json() == before
