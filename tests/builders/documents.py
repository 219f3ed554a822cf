"""Documents as an operator would send them: honest defaults, so that a test says only what matters to it."""

from typing import Any


def a_card(**fields: Any) -> dict[str, Any]:
    """100 requests a month."""
    return {
        "type": "usage_based",
        "key": "api_requests",
        "name": "API requests",
        "featureKey": "api_requests",
        "billingCadence": "P1M",
        "entitlementTemplate": {"type": "metered", "issueAfterReset": 100},
    } | fields


def a_plan(*cards: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "key": "free",
        "name": "Free",
        "currency": "USD",
        "billingCadence": "P1M",
        "phases": [{"key": "default", "name": "Default", "rateCards": list(cards) or [a_card()]}],
    } | fields


def faults(answer: Any) -> dict[str, str]:
    """Pointer → detail of a 422."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return {fault["pointer"]: fault["detail"] for fault in answer.json()["errors"]}
