"""Invoice lines rated in a second of one core, by price model. Run: .venv/bin/python tests/bench/rating.py

CPU time, so that whatever else the machine does is not counted.
"""

from datetime import UTC, datetime
from decimal import Decimal
from time import process_time

from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.money import currency
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.price import Dynamic, Flat, Graduated, Package, Price, Unit, Volume
from farebox_portal.pricing.progressive import difference
from farebox_portal.pricing.rate import Charge, rate
from farebox_portal.pricing.tiers import Tier

ROUNDS = 20_000
D = Decimal
TIERS = (Tier(D(1000), D(5), D("0.10")), Tier(D(10_000), D(0), D("0.05")), Tier(None, D(0), D("0.01")))
PRICES: dict[str, Price] = {
    "flat": Flat(D("49.00")),
    "unit": Unit(D("0.0008")),
    "graduated": Graduated(TIERS),
    "volume": Volume(TIERS),
    "package": Package(D(10), D(1000)),
    "dynamic": Dynamic(D("1.2")),
}
MONTH = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
QUANTITIES = [D(12_345 + 7 * number) for number in range(ROUNDS)]


def main() -> None:
    for name, price in PRICES.items():
        report(name, RateCard("api_requests", "API requests", price))
    everything = RateCard(
        "api_requests",
        "API requests",
        Graduated(TIERS),
        free_units=D(100),
        percentage_off=D(15),
        minimum=D(5000),
        maximum=D(9000),
    )
    report("every step", everything)
    report("split", RateCard("api_requests", "API requests", Graduated(TIERS)), split=True)


def report(name: str, card: RateCard, *, split: bool = False) -> None:
    """Best of five. `split`: the lines are what is left after an earlier half was billed."""
    charge = Charge(card, currency("USD"), MONTH)
    billed = rate(charge, D(6000)) if split else ()
    best, lines = float("inf"), 0
    for _ in range(5):
        started, lines = process_time(), 0
        for quantity in QUANTITIES:
            found = rate(charge, quantity)
            lines += len(difference(found, billed) if split else found)
        best = min(best, process_time() - started)
    print(f"{name:12} {lines / best:12,.0f} lines/s   {best / ROUNDS * 1e6:6.2f} µs a rate card")


if __name__ == "__main__":
    main()
