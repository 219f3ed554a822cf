"""Currencies whose minor units are not what ISO says, from the plan to the charge."""

import pytest

from builders.payments import Shop
from builders.portal import a_plan
from builders.subscriptions import a_fee
from farebox_portal.db import transaction
from farebox_portal.pricing.money import currency, to_stripe


@pytest.mark.parametrize(
    ("code", "fee", "charged"),
    [("ISK", "1990", 199_000), ("UGX", "50000", 5_000_000), ("JPY", "990", 990), ("KWD", "1.234", 1230),
     ("TND", "9.995", 10_000), ("HUF", "990.5", 99_050)],
)  # fmt: skip
def test_odd_minor_units_are_charged_as_they_are_written(shop: Shop, code: str, fee: str, charged: int) -> None:
    with transaction(shop.engine) as session:
        a_plan(session, a_fee(fee), key="abroad", currency=code)
    shop.a_customer()
    shop.a_subscription(plan="abroad")
    shop.work()
    assert shop.charges() == [charged]
    assert to_stripe(shop.invoice().total_minor, currency(code)) == charged
