"""Documents that were made to break something: each is refused by 4xx with its places, and nothing is written.

"Refused" is more than "no 500": the test client lets no exception of the app pass.
"""

import json
from collections.abc import Iterator
from typing import Any

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders.addons import an_addon_document
from builders.documents import a_card, a_plan
from farebox_portal.body_limit import BODY_BYTES_MAX

CARD = "/phases/0/rateCards/0"
ADDON = "/rateCards/0/price"
GRANTS = "subscriptions/{id}/entitlements/api_requests/grants"
ANSWER_BYTES_MAX = 1 << 17


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def tiers(count: int) -> list[dict[str, Any]]:
    return [{"upToAmount": number + 1, "unitPrice": 1} for number in range(count)]


def unit(amount: object) -> dict[str, Any]:
    return a_plan(a_card(price={"type": "unit", "amount": amount}))


def phases(*durations: object) -> list[dict[str, Any]]:
    return [{"key": "p", "name": "P", "duration": duration, "rateCards": [a_card()]} for duration in durations]


def filled(count: int) -> dict[str, Any]:
    """As many unknown fields as a body holds."""
    return {f"x{number}": 0 for number in range(count)}


HOSTILE: dict[str, tuple[Any, set[str]]] = {
    "as many unknown fields as a body holds": (filled(70_000), {"/key", "/x0", ""}),
    "a field with half a megabyte of name": (a_plan(**{"x" * 500_000: 1}), {""}),
    "half a megabyte of name": (a_plan(name="x" * 500_000), {"/name"}),
    "no currency, no cadence": (
        a_plan(currency="XXX", billingCadence="P1000000000Y"),
        {"/currency", "/billingCadence"},
    ),
    "phases without end": (a_plan(phases=[{}] * 200_000), {"/phases"}),
    "rate cards without end": (a_plan(*[{}] * 200_000), {"/phases/0/rateCards"}),
    "faults without end": (a_plan(phases=[{"rateCards": [{}] * 100}] * 20), {"/phases/0/key", ""}),
    "a phase beyond the calendar": (a_plan(phases=phases("P9999Y", None)), {"/phases/0/duration", "/phases/1/key"}),
    "a phase after the last": (a_plan(phases=phases("P1M", "P1M")), {"/phases/1/key", "/phases/1/duration"}),
    "two phases at once": (a_plan(phases=phases(None, None)), {"/phases/0/duration", "/phases/1/key"}),
    "a phase that ends before it begins": (a_plan(phases=phases("-P1M", None)), {"/phases/0/duration"}),
    "10 000 tiers": (a_plan(a_card(price={"type": "graduated", "tiers": tiers(10_000)})), {f"{CARD}/price/tiers"}),
    "1000 open tiers": (
        a_plan(a_card(price={"type": "volume", "tiers": [{"unitPrice": 1}] * 1000})),
        {f"{CARD}/price/tiers"},
    ),
    "overlapping tiers": (
        a_plan(a_card(price={"type": "graduated", "tiers": [*tiers(2), *tiers(1), {"unitPrice": 1}]})),
        {f"{CARD}/price/tiers/2/upToAmount"},
    ),
    **{
        f"the amount {str(amount)[:20]}": (unit(amount), {f"{CARD}/price/amount"})
        for amount in (
            *(-1, "-0.01", 10**4000, 1e300, "1e999999999", "9" * 100_000, "NaN", "Infinity", "٣", "1_000", " 1", True),
            *([1], {"amount": 1}, nested(900)),
        )
    },
    "a price 900 levels deep": (a_plan(a_card(price=nested(900))), {f"{CARD}/price"}),
    "a unit 900 levels deep": (
        a_plan(a_card(price={"type": "unit", "amount": 1}, unitConfig={"displayUnit": nested(900)})),
        {f"{CARD}/unitConfig/{name}" for name in ("operation", "conversionFactor", "displayUnit")},
    ),
    "metadata 900 levels deep": (a_plan(metadata={"a": nested(900)}), {"/metadata"}),
    "metadata that is a list": (a_plan(metadata=nested(900)), {"/metadata"}),
    "a rate beyond all numbers": (
        a_plan(rateLimit={"requests": 10**400, "per": "PT" + "9" * 1000 + "S"}),
        {"/rateLimit/requests", "/rateLimit/per"},
    ),
    "a quota beyond all numbers": (
        a_plan(a_card(entitlementTemplate={"type": "metered", "issueAfterReset": 1e300})),
        {f"{CARD}/entitlementTemplate/issueAfterReset"},
    ),
    "JSON in JSON, without end": (
        a_plan(a_card(entitlementTemplate={"type": "static", "config": "[" * 500_000})),
        {f"{CARD}/entitlementTemplate/config"},
    ),
    "SQL for a key": (
        a_plan(a_card(featureKey="' OR 1=1 --", key="' OR 1=1 --")),
        {f"{CARD}/featureKey", f"{CARD}/key"},
    ),
    "a list": ([], {""}),
    "a text": ("plan", {""}),
}


def test_each_is_refused_with_its_places(shop: TestClient) -> None:
    before = shop.get("/v1/plans").json()
    for name, (document, pointers) in HOSTILE.items():
        body = json.dumps(document)
        assert len(body) < BODY_BYTES_MAX, f"{name}: nobody would read it"
        answer = shop.post("/v1/plans", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422, name
        assert answer.headers["content-type"] == "application/problem+json", name
        assert pointers <= {fault["pointer"] for fault in answer.json()["errors"]}, name
        assert len(answer.content) < ANSWER_BYTES_MAX, name
    assert shop.get("/v1/plans").json() == before


HUGE: Any = 10**400
LATE = "9999-12-31T23:59:59-23:59"
EARLY = "0001-01-01T00:00:00+23:59"
SEATS = an_addon_document()
TEN: dict[str, Any] = {"code": "TEN", "percentOff": "10", "duration": "once"}
TOKENS: dict[str, Any] = {"slug": "tokens", "aggregation": "SUM", "valueProperty": "$.total"}
FREE: dict[str, Any] = {"plan": {"key": "free"}, "customerKey": "beta"}
QUOTE: dict[str, Any] = {"planKey": "free", "usage": "1"}
GRANT: dict[str, Any] = {"amount": 1}

# (where, with which document, places that are named)
EVERYWHERE: list[tuple[str, Any, set[str]]] = [
    ("addons", SEATS | {"x": 1, "currency": "XXX"}, {"/x", "/currency"}),
    ("addons", SEATS | {"rateCards": [{}] * 50_000}, {"/rateCards"}),
    ("addons", SEATS | {"rateCards": [a_card(price={"type": "volume", "tiers": tiers(10_000)})]}, {ADDON + "/tiers"}),
    ("addons", SEATS | {"rateCards": [a_card(price={"type": "unit", "amount": "-1"})]}, {ADDON + "/amount"}),
    ("addons", SEATS | {"rateCards": [a_card(price={"type": "unit", "amount": "NaN"})]}, {ADDON + "/amount"}),
    ("addons", SEATS | {"rateCards": [a_card(price={"type": "unit", "amount": HUGE})]}, {ADDON + "/amount"}),
    ("addons", SEATS | {"instanceType": "many", "metadata": nested(900)}, {"/instanceType", "/metadata"}),
    ("addons", [], {""}),
    ("coupons", TEN | {"x": 1}, {"/x"}),
    *(
        ("coupons", TEN | {"percentOff": wrong}, {"/percentOff"})
        for wrong in (0, -1, 101, "NaN", "1e2", HUGE, 1e300, True)
    ),
    ("coupons", {"code": "A", "amountOff": "-5", "currency": "USD", "duration": "once"}, {"/amountOff"}),
    (
        "coupons",
        {"code": "A", "amountOff": "9" * 4000, "currency": "XXX", "duration": "x"},
        {"/amountOff", "/currency"},
    ),
    ("coupons", {"code": "A", "amountOff": "0.001", "currency": "USD", "duration": "once"}, {"/amountOff"}),
    ("coupons", {"code": "A", "amountOff": "0.5", "currency": "JPY", "duration": "once"}, {"/amountOff"}),
    ("coupons", TEN | {"code": "<script>"}, {"/code"}),
    ("coupons", TEN | {"redeemBy": LATE}, {"/redeemBy"}),
    ("coupons", TEN | {"redeemBy": EARLY}, {"/redeemBy"}),
    ("coupons", TEN | {"maxRedemptions": HUGE}, {"/maxRedemptions"}),
    ("coupons", TEN | {"duration": "repeating", "durationInMonths": 10**9}, {"/durationInMonths"}),
    ("coupons", TEN | {"appliesTo": {"planKeys": ["a"] * 101}}, {"/appliesTo/planKeys"}),
    ("meters", TOKENS | {"x": 1, "slug": "' OR 1=1"}, {"/x", "/slug"}),
    ("meters", TOKENS | {"valueProperty": "$" + ".a" * 5000}, {"/valueProperty"}),
    ("meters", TOKENS | {"groupBy": {f"d{n}": "$.x" for n in range(5000)}}, {"/groupBy"}),
    ("meters", TOKENS | {"eventFrom": EARLY}, {"/eventFrom"}),
    ("meters", TOKENS | {"metadata": {str(n): 1 for n in range(5000)}}, {"/metadata"}),
    ("features", {"key": "x", "name": "", "x": 1}, {"/name", "/x"}),
    ("features", {"key": "x", "name": "X", "unitCost": {"type": "manual", "amount": HUGE}}, {"/unitCost/amount"}),
    ("features", {"key": "x", "name": "X", "unitCost": nested(900)}, {"/unitCost"}),
    ("features", {"key": "x", "name": "X", "meterSlug": "api_requests", "filters": {"a": nested(900)}}, {"/filters/a"}),
    ("policies", {"key": "p", "meters": {"api_requests": -1}}, {"/meters/api_requests"}),
    ("policies", {"key": "p", "meters": {"api_requests": HUGE}, "x": 1}, {"/meters/api_requests", "/x"}),
    ("policies", {"key": "p", "meters": {"api_requests": "usage." + "x" * 100_000}}, {"/meters/api_requests"}),
    (
        "policies",
        {"key": "p", "meters": {"none": 1}, "meterOnStatusCodes": "*"},
        {"/meters/none", "/meterOnStatusCodes"},
    ),
    ("policies", {"key": "p", "requiredEntitlements": nested(900)}, {"/requiredEntitlements/0"}),
    ("subscriptions", FREE | {"x": 1}, {"/x"}),
    *(
        ("subscriptions", FREE | {"timing": wrong}, {"/timing"})
        for wrong in ("soon", EARLY, LATE, HUGE, nested(9), None)
    ),
    ("subscriptions", FREE | {"billingAnchor": EARLY}, {"/billingAnchor"}),
    ("subscriptions", FREE | {"billingAnchor": "9000-01-01T00:00:00Z"}, {"/billingAnchor"}),
    ("subscriptions", FREE | {"plan": {"key": "free", "version": HUGE}}, {"/plan/version"}),
    ("subscriptions", FREE | {"plan": "free"}, {"/plan"}),
    ("subscriptions", FREE | {"startingPhase": "x" * 100_000}, {"/startingPhase"}),
    ("subscriptions/{id}/change", {"plan": {"key": "free"}, "timing": LATE, "x": 1}, {"/timing", "/x"}),
    ("subscriptions/{id}/change/preview", {"plan": {"key": ""}, "timing": "2026-02-01T00:00:00"}, {"/timing"}),
    ("subscriptions/{id}/migrate", {"targetVersion": -1}, {"/targetVersion"}),
    ("subscriptions/{id}/cancel", {"timing": "2020-01-01T00:00:00Z"}, {"/timing"}),
    ("subscriptions/{id}/pause", {"resumesAt": EARLY}, {"/resumesAt"}),
    ("subscriptions/{id}/addons", {"addon": {"key": "x"}, "quantity": HUGE}, {"/quantity"}),
    ("subscriptions/{id}/addons", {"addon": {"key": "x"}, "quantity": 1.5}, {"/quantity"}),
    ("subscriptions/{id}/coupon", {"coupon": "x" * 5000}, {"/coupon"}),
    *(
        (GRANTS, GRANT | wrong, {"/" + field for field in wrong})
        for wrong in (
            *({"amount": amount} for amount in (0, -1, HUGE, 1.5, "NaN", True, 1 << 53)),
            {"priority": 0},
            {"priority": 256},
            {"expiresAt": EARLY},
            {"effectiveAt": LATE},
            {"expiration": nested(900)},
            {"x": 1},
        )
    ),
    ("pricing/preview", QUOTE | {"x": 1}, {"/x"}),
    *(
        ("pricing/preview", QUOTE | {"usage": wrong}, {"/usage"})
        for wrong in ("-1", "NaN", "1e9", "9" * 5000, HUGE, [1])
    ),
    ("pricing/preview", {"rateCard": a_card(price={"type": "unit", "amount": -1})}, {"/rateCard/price/amount"}),
    ("pricing/preview", QUOTE | {"currency": "EUR"}, {"/currency"}),
    ("pricing/preview", QUOTE | {"usage": {f"m{n}": "1" for n in range(5000)}}, {"/usage"}),
    ("pricing/simulations", {"plan": a_plan(currency="X"), "from": EARLY, "to": LATE}, {"/from", "/to"}),
    ("plan-invites", {"email": "x" * 5000, "planId": "free"}, {"/email"}),
    (
        "catalog/apply",
        {"addons": [SEATS | {"currency": "X"}], "coupons": [TEN | {"percentOff": -1}]},
        {"/addons/0/currency"},
    ),
    ("catalog/apply", {"plans": [{}] * 1001, "publish": 1}, {"/plans", "/publish"}),
]


def test_every_other_document_is_refused_with_its_places_and_writes_nothing(shop: TestClient) -> None:
    shop.post("/v1/customers", json={"key": "beta", "name": "Beta"})
    sold = shop.post("/v1/subscriptions", json={"plan": {"key": "free"}, "customerKey": "acme"}).json()["id"]
    before = shop.get("/v1/audit").json()["totalCount"]
    wrong = []
    for where, document, pointers in EVERYWHERE:
        body = json.dumps(document)
        answer = shop.post(f"/v1/{where.format(id=sold)}", content=body, headers={"content-type": "application/json"})
        is_problem = answer.headers["content-type"] == "application/problem+json"
        places = {fault["pointer"] for fault in answer.json().get("errors", [])} if is_problem else set()
        is_brief = len(answer.content) < ANSWER_BYTES_MAX and "function-" not in answer.text
        if answer.status_code != 422 or not pointers <= places or not is_brief:
            wrong.append((where, body[:200], answer.text[:500]))
    assert wrong == []
    assert shop.get("/v1/audit").json()["totalCount"] == before


def test_what_is_not_json_is_refused(shop: TestClient) -> None:
    for body in (
        b"",
        b"{",
        b'{"key": NaN}',
        b'{"key": Infinity}',
        b'{"key": 1e400}',
        b'{"key": ' + b"9" * 5000 + b"}",
        b'{"key": "a", "key": "b"}',
        b'{"key": "\\u0000"}',
        b'{"key": "\\ud800"}',
        b'{"key": "\xff"}',
        b'{"metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ):
        answer = shop.post("/v1/plans", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422), body[:24]
        assert answer.headers["content-type"] == "application/problem+json", body[:24]
    assert shop.get("/v1/plans").json()["totalCount"] == 1


def test_a_body_beyond_all_bounds_is_not_read(shop: TestClient) -> None:
    assert shop.post("/v1/plans", json=a_plan(description="x" * BODY_BYTES_MAX)).status_code == 413


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["", "0", "1e5", "P1M", "USD", "unit", "free", "metered", "true", "{}", "PT0S"])
)
FIELDS = st.text(max_size=5) | st.sampled_from(["type", "key", "amount", "tiers", "duration", "config", "percentage"])
JSON = st.recursive(LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(FIELDS, x, max_size=3), max_leaves=8)
WHOLE: Any = a_plan(
    a_card(
        price={"type": "tiered", "mode": "volume", "tiers": [*tiers(1), {"unitPrice": 1}], "minimumAmount": "5"},
        discounts={"percentage": {"percentage": 10}, "usage": {"quantity": "5"}},
        unitConfig={"operation": "divide", "conversionFactor": 1000, "precision": 2, "displayUnit": "kB"},
        taxConfig={"behavior": "inclusive", "stripe": {"code": "txcd_10000000"}},
        entitlementTemplate={"type": "metered", "issueAfterReset": 5, "usagePeriod": "P1D", "isSoftLimit": True},
        metadata={"a": {}},
    ),
    key="fuzzed",
    rateLimit={"requests": 1, "per": "second"},
    concurrencyLimit=5,
    proRatingConfig={"enabled": True},
    defaultTaxConfig={"behavior": "exclusive"},
    alignment={"billablesMustAlign": True},
    metadata={"isCustom": True, "contactUrl": "https://example.com", "zuplo_max_payment_overdue_days": "3"},
)


def places_in(part: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(part) if isinstance(part, dict) else range(len(part)):
        yield part, key
        if isinstance(part[key], dict | list):
            yield from places_in(part[key])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(data=st.data())
def test_any_value_in_any_place_is_taken_whole_or_refused(shop: TestClient, data: st.DataObject) -> None:
    document = json.loads(json.dumps(WHOLE))
    for _ in range(data.draw(st.integers(1, 2))):
        part, key = data.draw(st.sampled_from(list(places_in(document))))
        part[key] = data.draw(JSON)
    before = shop.get("/v1/plans").json()["totalCount"]
    answer = shop.post("/v1/plans", json=document)
    if answer.status_code != 201:
        assert answer.status_code in (400, 422), answer.text
        assert shop.get("/v1/plans").json()["totalCount"] == before
        return
    made = answer.json()
    assert made["phases"] == document["phases"]
    again = shop.put(f"/v1/plans/{made['id']}", json=made)
    assert again.json() == made, "what was taken can be read and sent again"
    assert shop.post(f"/v1/plans/{made['id']}/publish").json()["status"] == "active"
    assert shop.get("/v1/price-list").status_code == 200
    sold = shop.post("/v1/subscriptions", json={"plan": {"key": made["key"]}, "customerKey": "acme"}).json()
    assert shop.get(f"/v1/subscriptions/{sold['id']}/usage").json()["planKey"] == made["key"]
    shop.post(f"/v1/subscriptions/{sold['id']}/cancel")
    shop.post(f"/v1/plans/{made['id']}/archive")
