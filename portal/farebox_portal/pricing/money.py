"""Money: integers of minor units, one way to round, and the two different ideas of what a minor unit is.

A currency has two scales. ISO 4217's says what one unit is in our ledger: 1 USD is 100, 1 JPY is 1, 1 KWD is 1000.
Stripe's says what an integer means in its API, and it is not the same table:

    JPY  ISO 0  Stripe 0   5 JPY is 5 in the ledger and 5 on the wire
    KWD  ISO 3  Stripe 3   but the last digit must be 0: we charge in steps of 10 fils
    ISK  ISO 0  Stripe 2   5 ISK is 5 in the ledger and 500 on the wire; UGX likewise
    MGA  ISO 2  Stripe 0   we charge in steps of 100, so 5 MGA is 500 in the ledger and 5 on the wire

The ledger must equal the provider's to the last digit. So every amount is rounded to `step_minor`, the finest that both
can write, and never a second time on its way out. Source: ISO 4217 list one; docs.stripe.com/currencies (2026-09).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from fractions import Fraction

EXACT = Context(prec=160, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])
"""Products and sums in this context are exact, or raise. Python's default one rounds at 28 digits without a word."""

_ISO_2 = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP CVE
    CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR
    KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB
    PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY
    TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
"""
_ISO_0 = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_ISO_3 = "BHD IQD JOD KWD LYD OMR TND"

# Where Stripe's scale is not ISO's.
_STRIPE_EXPONENT = {"ISK": 2, "UGX": 2, "MGA": 0}
# Stripe wants the last digit of these to be 0.
_STRIPE_TENS = {"BHD", "JOD", "KWD", "OMR", "TND"}
# Not on its list of presentment currencies, the one of 2026 with SLE and XCG.
_NOT_AT_STRIPE = set("BTN CUP ERN GHS IQD IRR KPW LYD MRU SDG SSP STN SVC SYP TMT VED VES ZWG".split())  # noqa: SIM905


@dataclass(frozen=True, slots=True)
class Currency:
    """`exponent`: 1 unit is 10**exponent minor units. Amounts are whole multiples of `step_minor`."""

    code: str
    exponent: int
    step_minor: int
    stripe_exponent: int | None  # None: Stripe does not charge it


def _currency(code: str, exponent: int) -> Currency:
    if code in _NOT_AT_STRIPE:
        return Currency(code, exponent, 1, None)
    stripe_exponent = _STRIPE_EXPONENT.get(code, exponent)
    step_minor = 10 if code in _STRIPE_TENS else 10 ** max(0, exponent - stripe_exponent)
    return Currency(code, exponent, step_minor, stripe_exponent)


CURRENCIES = {
    code: _currency(code, exponent)
    for exponent, codes in ((0, _ISO_0), (2, _ISO_2), (3, _ISO_3))
    for code in codes.split()
}


def currency(code: str) -> Currency:
    """Raises ValueError for a code that ISO 4217 does not have (any more), and for one in lower case."""
    found = CURRENCIES.get(code)
    if found is None:
        raise ValueError(f"{code!r} is not an ISO 4217 currency code such as USD")
    return found


def to_minor(amount: Decimal, of: Currency) -> int:
    """Units to minor units, half away from zero: 0.125 USD is 13, -0.125 USD is -13. The one place money is rounded."""
    scaled = amount.scaleb(of.exponent, EXACT)
    step = of.step_minor
    if step != 1:
        scaled = scaled.scaleb(1 - len(str(step)), EXACT)  # steps are powers of ten
    return int(scaled.to_integral_value(ROUND_HALF_UP, EXACT)) * step


def share_of(amount_minor: int, share: Fraction, of: Currency) -> int:
    """A share of an amount of minor units, by the same rule: a third of 1.00 USD is 33, two thirds are 67."""
    exact = amount_minor * share / of.step_minor
    magnitude = (2 * abs(exact.numerator) + exact.denominator) // (2 * exact.denominator)
    return (magnitude if exact >= 0 else -magnitude) * of.step_minor


def to_units(amount_minor: int, of: Currency) -> Decimal:
    """Minor units to units: 870 is Decimal("8.70")."""
    return Decimal(amount_minor).scaleb(-of.exponent, EXACT)


def decimal_text(amount_minor: int, of: Currency) -> str:
    """As it stands in documents: 870 is "8.70", 5 JPY is "5"."""
    return format(to_units(amount_minor, of), "f")


def to_stripe(amount_minor: int, of: Currency) -> int:
    """The integer that Stripe's API takes. Raises ValueError for a currency or an amount that Stripe would refuse."""
    if of.stripe_exponent is None:
        raise ValueError(f"Stripe does not charge {of.code}")
    if amount_minor % of.step_minor:
        raise ValueError(f"{of.code} is charged in steps of {decimal_text(of.step_minor, of)}")
    if of.stripe_exponent >= of.exponent:
        return int(amount_minor * 10 ** (of.stripe_exponent - of.exponent))
    return int(amount_minor // 10 ** (of.exponent - of.stripe_exponent))


def from_stripe(amount: int, of: Currency) -> int:
    """What an integer of Stripe's API is in minor units. Raises ValueError if the ledger cannot write it."""
    if of.stripe_exponent is None:
        raise ValueError(f"Stripe does not charge {of.code}")
    if of.stripe_exponent <= of.exponent:
        return int(amount * 10 ** (of.exponent - of.stripe_exponent))
    whole, rest = divmod(amount, 10 ** (of.stripe_exponent - of.exponent))
    if rest:
        raise ValueError(f"{amount} is a fraction of the smallest {of.code} there is")
    return int(whole)


def allocate(total: int, weights: Sequence[int], step: int = 1) -> tuple[int, ...]:
    """`total` in whole multiples of `step`, by weight, nothing lost: (100, [1, 1, 1]) is (34, 33, 33).

    By largest remainder; of equal remainders the earlier weight gets the step. A negative total is the mirror image.
    Raises ValueError if no weight is positive, one is negative, or `total` is no multiple of `step`.
    """
    whole = sum(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError("weights must be 0 or more, and one of them more than 0")
    if total % step:
        raise ValueError(f"{total} is no multiple of {step}")
    steps, sign = abs(total) // step, -1 if total < 0 else 1
    shares = [divmod(steps * weight, whole) for weight in weights]
    left = steps - sum(share for share, _ in shares)
    first = sorted(range(len(weights)), key=lambda place: (-shares[place][1], place))[:left]
    return tuple(sign * step * (share + (place in first)) for place, (share, _) in enumerate(shares))
