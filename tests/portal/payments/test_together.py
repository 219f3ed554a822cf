"""Several who collect at the same time, on both databases: what the lease, the keys and the constraints are for."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from builders.databases import DIALECTS
from builders.payments import Shop
from farebox_portal.db import transaction
from farebox_portal.payments.advance import Desk, advance
from farebox_portal.payments.collect import collect_due
from farebox_portal.payments.tables import Collection, Operation, PaymentAccount


@pytest.fixture(scope="session", params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_three_collectors_at_once_make_one_payment_each(bundle: Shop) -> None:
    for number in range(4):
        bundle.a_customer(f"customer-{number}")
        bundle.a_subscription(f"customer-{number}", "bundle")
    now = bundle.clock.now()
    bundle.till.enroll(now)
    start = threading.Barrier(3)

    def collect(_: int) -> None:
        desk = Desk(bundle.engine, bundle.gateway, bundle.till.terms)
        start.wait()
        while collect_due(desk, now):
            pass

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(collect, range(3)))
    bundle.until(lambda: all(one.state == "done" for one in bundle.collections()))
    assert bundle.charges() == [3401] * 4
    assert [one[1:] for one in bundle.there()] == [("paid", 3401, (2900, 501))] * 4


def test_three_who_all_believe_that_the_customer_is_theirs_still_make_one_payment(
    bundle: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a lease has run out under somebody slow: then the keys are what is left."""
    monkeypatch.setattr("farebox_portal.payments.advance.lease", lambda *_: True)
    bundle.a_customer()
    bundle.a_subscription(plan="bundle")
    now = bundle.clock.now()
    bundle.till.enroll(now)
    with transaction(bundle.engine) as session:
        account = session.exec(select(PaymentAccount)).one()
    start = threading.Barrier(3)

    def collect(_: int) -> None:
        desk = Desk(bundle.engine, bundle.gateway, bundle.till.terms)
        start.wait()
        with suppress(IntegrityError):  # the other one has written the same attempt; a job would come again
            advance(desk, account, bundle.collection().invoice_id, now)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(collect, range(3)))
    bundle.until(lambda: bundle.collection().state == "done")
    assert bundle.charges() == [3401]
    assert [one[1:] for one in bundle.there()] == [("paid", 3401, (2900, 501))]


def test_an_attempt_cannot_be_written_twice_nor_an_invoice_collected_twice(bundle: Shop) -> None:
    bundle.a_customer()
    bundle.a_subscription(plan="bundle")
    bundle.work()
    operation = next(one for one in bundle.operations() if one.step == "pay")
    row = bundle.collection()
    twins = (
        Operation(**(operation.model_dump() | {"key": "another"})),
        Operation(**(operation.model_dump() | {"attempt": 9})),
        Collection(**row.model_dump()),
    )
    for twin in twins:
        with pytest.raises(IntegrityError), transaction(bundle.engine) as session:
            session.add(twin)
