from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, func, update
from sqlmodel import Session, col, select

from builders.databases import DIALECTS
from builders.subscriptions import APRIL, a_catalog, an_order
from farebox_portal import audit
from farebox_portal.catalog import coupons as catalog
from farebox_portal.catalog.coupons import CouponInput
from farebox_portal.catalog.tables import Coupon
from farebox_portal.db import transaction
from farebox_portal.errors import Conflict, FareboxError, Invalid, NotFound
from farebox_portal.subscriptions import coupons, lifecycle
from farebox_portal.subscriptions.tables import Redemption, Subscription

DAY = timedelta(days=1)
MID = APRIL + 15 * DAY
MAY = datetime(2026, 5, 1, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="session", params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with transaction(engine) as session:
        a_catalog(session)
        yield session


@pytest.fixture
def row(session: Session) -> Subscription:
    return an_order(session, "pro")


def a_coupon(session: Session, code: str = "TEN", **fields: Any) -> Coupon:
    given = {"code": code, "percentOff": "10", "duration": "forever"} | fields
    wanted = {name: value for name, value in given.items() if value is not None}
    found = catalog.create(session, CouponInput.model_validate(wanted), APRIL)
    session.flush()
    return found


def codes(session: Session, row: Subscription, *at: datetime) -> list[str | None]:
    """Of what is taken off invoices that close at these instants."""
    found = [coupons.in_force(session, [row.id], instant).get(row.id) for instant in at]
    return [None if coupon is None else coupon.code for coupon in found]


def refusal(error: type[FareboxError], step: Any, *args: Any) -> str:
    with pytest.raises(error) as caught:
        step(*args)
    return caught.value.code


def counted(session: Session) -> tuple[int, int]:
    """(by the coupons, by the redemptions)"""
    by_coupons = session.exec(select(func.sum(Coupon.times_redeemed))).one()
    return int(by_coupons), int(session.exec(select(func.count()).select_from(Redemption)).one())


@pytest.mark.parametrize(
    ("fields", "in_force"),
    [
        ({"duration": "forever"}, ["TEN", "TEN", "TEN"]),
        ({"duration": "repeating", "durationInMonths": 1}, ["TEN", "TEN", None]),
        ({"duration": "once"}, ["TEN", "TEN", "TEN"]),
    ],
)
def test_it_takes_off_what_is_invoiced_from_its_redemption_on(
    session: Session, row: Subscription, fields: dict[str, Any], in_force: list[str | None]
) -> None:
    a_coupon(session, **fields)
    coupons.redeem(session, row, "ten", MID)
    assert codes(session, row, MID - DAY, MID, MAY, MID + 30 * DAY) == [None, *in_force]


def test_with_a_subscription_it_counts_from_the_subscription_s_start(session: Session) -> None:
    a_coupon(session, duration="repeating", durationInMonths=2)
    row = an_order(session, "pro", timing=MAY, coupon="TEN")
    assert codes(session, row, APRIL, MAY, JUNE, JUNE + 30 * DAY) == [None, "TEN", "TEN", None]


def test_one_that_is_good_for_one_invoice_is_used_up_by_it(session: Session, row: Subscription) -> None:
    coupon = a_coupon(session, duration="once")
    coupons.redeem(session, row, "TEN", APRIL)
    coupons.note_use(session, row.id, coupon.id, "invoice")
    session.flush()
    assert codes(session, row, APRIL, MAY) == [None, None]
    assert refusal(NotFound, coupons.get, session, row, APRIL) == "subscription_coupon_not_found"
    forever = a_coupon(session, "FOREVER")
    coupons.redeem(session, row, "FOREVER", APRIL)
    coupons.note_use(session, row.id, forever.id, "invoice")
    assert codes(session, row, APRIL, MAY) == ["FOREVER", "FOREVER"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"redeemBy": MID}, "coupon_expired"),
        ({"percentOff": None, "amountOff": "5", "currency": "EUR"}, "currency_mismatch"),
        ({"appliesTo": {"planKeys": ["max"]}}, "coupon_not_applicable"),
    ],
)
def test_what_cannot_be_redeemed(session: Session, row: Subscription, fields: dict[str, Any], code: str) -> None:
    a_coupon(session, **fields)
    assert refusal(Conflict, coupons.redeem, session, row, "TEN", MID) == code
    assert counted(session) == (0, 0)


def test_an_archived_or_unknown_one_cannot_be_redeemed_and_who_has_it_keeps_it(
    session: Session, row: Subscription
) -> None:
    coupon = a_coupon(session)
    coupons.redeem(session, row, "TEN", APRIL)
    catalog.archive(session, coupon, APRIL)
    assert codes(session, row, MAY) == ["TEN"]
    other = an_order(session, "pro", customer="other")
    assert refusal(Conflict, coupons.redeem, session, other, "TEN", APRIL) == "coupon_archived"
    assert refusal(Invalid, coupons.redeem, session, other, "NOTHING", APRIL) == "invalid_request"
    lifecycle.cancel(session, other, "immediate", APRIL)
    assert refusal(Conflict, coupons.redeem, session, other, "TEN", APRIL) == "subscription_inactive"


def test_one_at_a_time_and_each_once(session: Session, row: Subscription) -> None:
    a_coupon(session)
    a_coupon(session, "MORE", duration="repeating", durationInMonths=1)
    coupons.redeem(session, row, "TEN", APRIL)
    assert refusal(Conflict, coupons.redeem, session, row, "MORE", APRIL) == "coupon_in_force"
    coupons.remove(session, row, MID)
    assert codes(session, row, APRIL, MID) == ["TEN", None]
    assert refusal(NotFound, coupons.remove, session, row, MID) == "subscription_coupon_not_found"
    assert refusal(Conflict, coupons.redeem, session, row, "TEN", MID) == "coupon_already_redeemed"
    coupons.redeem(session, row, "MORE", MID)
    a_coupon(session, "THEN")
    coupons.redeem(session, row, "THEN", JUNE)
    assert codes(session, row, MID, MAY, JUNE) == ["MORE", "MORE", "THEN"], "what is over makes room"
    assert counted(session) == (3, 3)


def test_the_last_one_goes_to_one_and_comes_back_if_that_never_begins(session: Session, row: Subscription) -> None:
    a_coupon(session, maxRedemptions=1)
    other = an_order(session, "pro", customer="other", timing=MAY, coupon="TEN")
    assert refusal(Conflict, coupons.redeem, session, row, "TEN", APRIL) == "coupon_used_up"
    lifecycle.delete(session, other, APRIL)
    assert counted(session) == (0, 0)
    coupons.redeem(session, row, "TEN", APRIL)
    assert counted(session) == (1, 1)


def test_one_that_is_archived_while_it_is_being_redeemed_is_not_redeemed(session: Session, row: Subscription) -> None:
    coupon = a_coupon(session)
    archived = update(Coupon).where(col(Coupon.id) == coupon.id).values(archived_at=APRIL)
    session.connection().execute(archived)  # by somebody else: this session has read it before
    assert coupon.archived_at is None
    assert refusal(Conflict, coupons.redeem, session, row, "TEN", APRIL) == "coupon_used_up"


def test_one_that_is_removed_before_it_began_never_was_in_force(session: Session) -> None:
    coupon = a_coupon(session)
    row = an_order(session, "pro", customer="later", timing=MAY, coupon="TEN")
    coupons.remove(session, row, APRIL)
    redemption = session.get_one(Redemption, (row.id, coupon.id))
    assert (redemption.starts_at, redemption.ends_at) == (MAY, MAY)
    assert codes(session, row, APRIL, MAY, JUNE) == [None, None, None]


def test_what_is_done_stands_in_the_log(session: Session, row: Subscription) -> None:
    coupon = a_coupon(session)
    coupons.redeem(session, row, "TEN", APRIL)
    coupons.remove(session, row, APRIL)
    entries = session.exec(select(audit.AuditEntry).where(audit.AuditEntry.object_id == row.id)).all()
    facts = {"couponId": coupon.id, "code": "TEN"}
    assert [(entry.action, entry.before, entry.after) for entry in entries[1:]] == [
        ("subscription.redeem_coupon", None, facts),
        ("subscription.remove_coupon", facts, None),
    ]


def test_of_many_at_once_as_many_get_it_as_there_are(engine: Engine) -> None:
    customers, most = 8, 3
    with transaction(engine) as session:
        a_catalog(session)
        a_coupon(session, maxRedemptions=most)
        ids = [an_order(session, "pro", customer=f"customer_{number}").id for number in range(customers)]
    ready = Barrier(customers)

    def redeem(subscription_id: str) -> str:
        ready.wait(30)
        try:
            with transaction(engine) as session:
                coupons.redeem(session, lifecycle.get(session, subscription_id), "TEN", APRIL)
        except Conflict as refusal:
            return refusal.code
        return "redeemed"

    with ThreadPoolExecutor(customers) as pool:
        answers = list(pool.map(redeem, ids))
    assert sorted(answers) == ["coupon_used_up"] * (customers - most) + ["redeemed"] * most
    with transaction(engine, read_only=True) as session:
        assert counted(session) == (most, most)


def test_a_subscription_that_asks_twice_at_once_redeems_it_once(engine: Engine) -> None:
    with transaction(engine) as session:
        a_catalog(session)
        a_coupon(session)
        row_id = an_order(session, "pro").id
    ready = Barrier(4)

    def redeem(_: int) -> str:
        ready.wait(30)
        try:
            with transaction(engine) as session:
                coupons.redeem(session, lifecycle.get(session, row_id), "TEN", APRIL)
        except Conflict as refusal:
            return refusal.code
        return "redeemed"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(redeem, range(4))) == [*["coupon_already_redeemed"] * 3, "redeemed"]
    with transaction(engine, read_only=True) as session:
        assert counted(session) == (1, 1)


def test_the_whole_way_over_http(shop: TestClient) -> None:
    shop.post("/v1/coupons", json={"code": "TEN", "percentOff": 10, "duration": "forever", "maxRedemptions": 1})
    refused = shop.post("/v1/subscriptions", json={"plan": {"key": "free"}, "customerKey": "acme", "coupon": "X"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/coupon")
    assert shop.get("/v1/subscriptions").json()["totalCount"] == 0, "no subscription without its coupon"
    made = shop.post("/v1/subscriptions", json={"plan": {"key": "free"}, "customerKey": "acme", "coupon": "ten"})
    url = f"/v1/subscriptions/{made.json()['id']}/coupon"
    shown = shop.get(url).json()
    assert (shown["coupon"]["code"], shown["coupon"]["timesRedeemed"]) == ("TEN", 1)
    assert shop.delete(url).status_code == 204
    assert shop.get(url).json()["code"] == "subscription_coupon_not_found"
    shop.post("/v1/coupons", json={"code": "FIVE", "percentOff": 5, "duration": "once"})
    first, second = (shop.post(url, json={"coupon": "FIVE"}, headers={"Idempotency-Key": "x"}) for _ in range(2))
    assert (first.status_code, first.json()) == (201, second.json())
    assert shop.get("/v1/coupons/FIVE").json()["timesRedeemed"] == 1
