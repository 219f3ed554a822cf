"""Which amounts can be charged, by Stripe's published tables: currencies, their odd minor units, the least charge.

Written down here once more, and not taken from `pricing.money`: the stand-in is the witness against that table.
Source: docs.stripe.com/currencies (2026-09).
"""

from farebox_portal.standin.wire import Refused

_CODES = """
    usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn bzd cad cdf chf clp
    cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl hrk htg huf idr ils inr
    isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk mxn myr
    mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd shp sle sos srd
    szl thb tjs tnd top try ttd twd tzs uah ugx uyu uzs vnd vuv wst xaf xcd xcg xof xpf yer zar zmw
"""
CURRENCIES = frozenset(_CODES.split())
_NO_DECIMALS = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
_ZERO_DECIMAL = frozenset(_NO_DECIMALS.split())
_WHOLE_TENS = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})  # three decimals, and the last digit is 0
_WHOLE_HUNDREDS = frozenset({"isk", "ugx"})  # two decimals on the wire, and both are 0
AMOUNT_MAX = 99_999_999

_MINIMUM = {
    "aed": 200, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "czk": 1500, "dkk": 250, "eur": 50, "gbp": 30,
    "hkd": 400, "huf": 17500, "inr": 50, "jpy": 50, "mxn": 1000, "myr": 200, "nok": 300, "nzd": 50, "pln": 200,
    "ron": 200, "sek": 300, "sgd": 50, "thb": 1000, "usd": 50,
}  # fmt: skip


def minimum_charge(currency: str) -> int:
    """Minor units. Less than this is not charged but carried to the customer's balance."""
    return _MINIMUM.get(currency, 1)


def check_currency(currency: str, *, param: str = "currency") -> str:
    """The code in lower case. Raises Refused."""
    if currency.lower() not in CURRENCIES:
        raise Refused(400, f"Invalid currency: {currency}.", param=param)
    return currency.lower()


def charged_step(currency: str) -> int:
    """Amounts are charged in whole multiples of it."""
    return 10 if currency in _WHOLE_TENS else 100 if currency in _WHOLE_HUNDREDS else 1


def check_chargeable(amount: int, currency: str) -> None:
    """Raises Refused for an amount that a card cannot be charged in this currency."""
    step = charged_step(currency)
    if amount % step:
        raise Refused(
            400,
            f"Invalid amount: {amount} {currency} is no multiple of {step}, the least unit that can be charged.",
            code="invalid_charge_amount",
            param="amount",
        )
    if amount > AMOUNT_MAX:
        raise Refused(400, f"Amount must be no more than {AMOUNT_MAX}", code="amount_too_large", param="amount")


def exponent(currency: str) -> int:
    """How many decimals an amount on the wire has."""
    return 3 if currency in _WHOLE_TENS else 0 if currency in _ZERO_DECIMAL else 2
