from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

from builders.portal import START, a_card, a_feature, a_meter, a_plan
from farebox_portal.catalog.tables import Feature, Plan
from farebox_portal.db import transaction
from farebox_portal.usage.grants import Allowance, Grants, grants, phase_at


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with transaction(engine) as session:
        a_meter(session)
        a_feature(session, meter_slug="api_requests")
        a_feature(session, "premium")
        a_feature(session, "seats")
        yield session


def granted(session: Session, plan: Plan) -> Grants:
    features = {feature.key: feature for feature in session.exec(select(Feature))}
    return grants(plan, plan.phases[0], features)


def requests(**fields: Any) -> Allowance:
    given = {"limit": 100, "soft": False, "cadence": "P1M", "filters": {}}
    return Allowance("api_requests", "api_requests", **(given | fields))


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (a_card(), requests()),
        (a_card(limit=0), requests(limit=0)),
        (a_card(soft=True), requests(soft=True)),
        (a_card(limit=None, soft=True), requests(limit=None, soft=True)),
        (a_card(limit=None), requests(limit=None, soft=True)),
        (a_card(billingCadence="P1Y"), requests(cadence="P1Y")),
        (a_card(billingCadence=None), requests(cadence="P3M")),
        (a_card(featureKey=None), requests()),
        (
            a_card(entitlementTemplate={"type": "metered", "issueAfterReset": 5, "usagePeriod": "PT1H"}),
            requests(limit=5, cadence="PT1H"),
        ),
        (a_card(type="usage_based", entitlementTemplate=None), requests(limit=None, soft=True)),
    ],
)
def test_a_card_grants_an_allowance(session: Session, card: dict[str, Any], expected: Allowance) -> None:
    assert granted(session, a_plan(session, card, billing_cadence="P3M")) == Grants((expected,), {})


def test_on_off_and_static_features_are_granted_and_a_fee_without_a_feature_is_only_billed(session: Session) -> None:
    plan = a_plan(
        session,
        a_card("premium", entitlementTemplate={"type": "boolean"}),
        a_card("seats", entitlementTemplate={"type": "static", "config": '{"value": 5}'}),
        a_card("base_fee", featureKey=None, entitlementTemplate=None),
        a_card(entitlementTemplate=None),
    )
    found = granted(session, plan)
    assert found == Grants((), {"premium": None, "seats": '{"value": 5}'})
    assert found.feature_keys == ["premium", "seats"]


def test_phases_follow_one_another_from_the_start_of_the_subscription(session: Session) -> None:
    phases = [
        {"key": "trial", "duration": "P14D", "rateCards": []},
        {"key": "ramp", "duration": "P1M", "rateCards": []},
        {"key": "full", "rateCards": []},
    ]
    plan = a_plan(session, phases=phases)
    trial_ends = START + timedelta(days=14)
    ramp_ends = datetime(2026, 3, 14, tzinfo=UTC)  # 31 January + 1 month (28 February) + 14 days

    def at(instant: datetime) -> tuple[str, datetime | None]:
        phase, ends_at = phase_at(plan, START, instant)
        return phase["key"], ends_at

    just = timedelta(microseconds=1)
    assert at(START - timedelta(days=1)) == ("trial", trial_ends)
    assert at(trial_ends - just) == ("trial", trial_ends)
    assert at(trial_ends) == ("ramp", ramp_ends)
    assert at(ramp_ends - just) == ("ramp", ramp_ends)
    assert at(ramp_ends) == ("full", None)
