"""Automatic tax: one rate for each country, by the customer's address. A model that is easy to check, not the law.

Exclusive tax is added to a line, inclusive tax is found within it; each line is rounded once, half away from zero.
"""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from farebox_portal.standin.amounts import charged_step, check_currency
from farebox_portal.standin.books import Books
from farebox_portal.standin.customers import living, location_invalid
from farebox_portal.standin.operation import Operation
from farebox_portal.standin.shapes import ADDRESS, PAGE, Choice, Each, Metadata, Needed, Shape, Text, Whole
from farebox_portal.standin.wire import Document, Given, Refused, page

CALCULATION_KEPT_S = 90 * 24 * 3600

# Percent. Where a country is not listed, nothing is collected there.
RATES = {
    country: Decimal(rate)
    for country, rate in {
        "AT": "20", "AU": "10", "BE": "21", "CA": "5", "CH": "8.1", "DE": "19", "DK": "25", "ES": "21", "FI": "25.5",
        "FR": "20", "GB": "20", "IE": "23", "IN": "18", "IT": "22", "JP": "10", "NL": "21", "NO": "25", "PL": "23",
        "PT": "23", "SE": "25",
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class Assessment:
    """What applies to a customer: `percent` of tax, and why that much."""

    country: str
    percent: Decimal
    reason: str

    def tax(self, amount: int, behavior: str, currency: str) -> int:
        """Of one line, in minor units that can be charged. `behavior`: exclusive or inclusive."""
        base = Decimal(100) if behavior == "exclusive" else 100 + self.percent
        step = charged_step(currency)
        return int((amount * self.percent / base / step).to_integral_value(ROUND_HALF_UP)) * step

    def broken_down(self, amount: int, behavior: str, currency: str) -> Document:
        """As a calculation's line carries it."""
        tax = self.tax(amount, behavior, currency)
        rate = {"display_name": "VAT", "percentage_decimal": f"{self.percent.normalize():f}", "tax_type": "vat"}
        return {
            "amount": tax,
            "jurisdiction": {
                "country": self.country, "display_name": self.country, "level": "country", "state": None,
            },
            "sourcing": "destination",
            "tax_rate_details": rate if self.reason == "standard_rated" else None,
            "taxability_reason": self.reason,
            "taxable_amount": amount if behavior == "exclusive" else amount - tax,
        }  # fmt: skip

    def on_line(self, amount: int, behavior: str, currency: str) -> Document:
        """As an invoice's line carries it."""
        tax = self.tax(amount, behavior, currency)
        return {
            "amount": tax,
            "tax_behavior": behavior,
            "tax_rate_details": {"tax_rate": f"txr_standin{self.country}{behavior}"},
            "taxability_reason": self.reason,
            "taxable_amount": amount if behavior == "exclusive" else amount - tax,
            "type": "tax_rate_details",
        }


def assess(address: Document | None, exemption: str | None) -> Assessment:
    """Raises Refused where the address does not say enough."""
    country = (address or {}).get("country")
    assert address is not None or country is None
    if not country or (country == "US" and not (address or {}).get("postal_code")):
        raise location_invalid()
    if exemption in ("exempt", "customer_exempt"):
        return Assessment(country, Decimal(0), "customer_exempt")
    if exemption in ("reverse", "reverse_charge"):
        return Assessment(country, Decimal(0), "reverse_charge")
    if country not in RATES:
        return Assessment(country, Decimal(0), "not_collecting")
    return Assessment(country, RATES[country], "standard_rated")


def customer_tax(customer: Document) -> Document:
    """Whether tax can be worked out for a customer, as it is only sent on request."""
    address = customer["address"] or {}
    try:
        found = assess(address, customer["tax_exempt"])
    except Refused:
        status = "unrecognized_location"
    else:
        status = "not_collecting" if found.reason == "not_collecting" else "supported"
    place = {"country": address.get("country"), "source": "billing_address", "state": address.get("state")}
    return {
        "automatic_tax": status, "ip_address": None, "location": place if address.get("country") else None,
        "provider": "stripe",
    }  # fmt: skip


def behavior_of(books: Books, said: str | None) -> str:
    """Raises Refused when neither the line nor the account says whether prices include tax."""
    found = said if said not in (None, "unspecified") else tax_settings(books)["defaults"]["tax_behavior"]
    if found is None:
        raise Refused(
            400,
            "Automatic tax needs `tax_behavior` (exclusive or inclusive) on every line, or as the account's default.",
            param="tax_behavior",
        )
    return "exclusive" if found == "inferred_by_currency" else str(found)


def tax_settings(books: Books) -> Document:
    return books.settings(
        "tax",
        defaults={"provider": "stripe", "tax_behavior": None, "tax_code": None},
        head_office={"address": dict.fromkeys(ADDRESS) | {"country": "DE"}},
        status="active",
    )


def check_active(books: Books) -> None:
    """Raises Refused while the account has not set up tax."""
    if tax_settings(books)["status"] != "active":
        raise Refused(
            400,
            "You must have a valid head office address to enable automatic tax calculation in test mode.",
            code="stripe_tax_inactive",
        )


def _show_settings(books: Books) -> Document:
    kept = tax_settings(books)
    details = {"active": {}} if kept["status"] == "active" else {"pending": {"missing_fields": ["head_office"]}}
    shown = {name: kept[name] for name in ("defaults", "head_office", "status")}
    return {"object": "tax.settings", "livemode": False, "status_details": details} | shown


def _settings(books: Books, given: Given) -> Document:
    return _show_settings(books)


def _set_settings(books: Books, given: Given) -> Document:
    kept = tax_settings(books)
    kept["defaults"] = kept["defaults"] | given.get("defaults", {})
    if "head_office" in given:
        kept["head_office"] = {"address": kept["head_office"]["address"] | given["head_office"]["address"]}
    books.save(kept)
    return _show_settings(books)


def _calculate(books: Books, given: Given) -> Document:
    check_active(books)
    customer = living(books, given["customer"]) if "customer" in given else None
    details = given.get("customer_details", {})
    address = details.get("address") or (customer or {}).get("address") or {}
    override = details.get("taxability_override", "none")
    currency = check_currency(given["currency"])
    found = assess(address, override if override != "none" else (customer or {}).get("tax_exempt"))
    lines = [_calculated(books, found, line, currency) for line in given["line_items"]]
    exclusive = sum(each["amount_tax"] for each in lines if each["tax_behavior"] == "exclusive")
    inclusive = sum(each["amount_tax"] for each in lines if each["tax_behavior"] == "inclusive")
    return books.add(
        "tax.calculation",
        "taxcalc",
        livemode=False,
        amount_total=sum(each["amount"] for each in lines) + exclusive,
        currency=currency,
        customer=customer and customer["id"],
        customer_details={
            "address": dict.fromkeys(ADDRESS) | address, "address_source": "billing", "ip_address": None, "tax_ids": [],
            "taxability_override": override,
        },
        expires_at=books.now() + CALCULATION_KEPT_S,
        ship_from_details=None,
        shipping_cost=None,
        tax_amount_exclusive=exclusive,
        tax_amount_inclusive=inclusive,
        tax_breakdown=[_breakdown(found, each, lines) for each in sorted({line["tax_behavior"] for line in lines})],
        tax_date=books.now(),
        _lines=lines,
    )  # fmt: skip


def _calculated(books: Books, found: Assessment, line: Given, currency: str) -> Document:
    behavior = behavior_of(books, line.get("tax_behavior"))
    return {
        "id": f"tax_li_{line.get('reference', 'line')}", "object": "tax.calculation_line_item", "livemode": False,
        "amount": line["amount"], "amount_tax": found.tax(line["amount"], behavior, currency),
        "metadata": line.get("metadata", {}),
        "performance_location": None, "product": None, "quantity": line.get("quantity", 1),
        "reference": line.get("reference", "L1"), "tax_behavior": behavior,
        "tax_breakdown": [found.broken_down(line["amount"], behavior, currency)],
        "tax_code": line.get("tax_code") or "txcd_10000000",
    }  # fmt: skip


def _breakdown(found: Assessment, behavior: str, lines: list[Document]) -> Document:
    tax = sum(each["amount_tax"] for each in lines if each["tax_behavior"] == behavior)
    amount = sum(each["amount"] for each in lines if each["tax_behavior"] == behavior)
    rate: dict[str, Any] = {
        "country": found.country, "flat_amount": None, "percentage_decimal": str(found.percent),
        "rate_type": "percentage", "state": None, "tax_type": "vat",
    }  # fmt: skip
    return {
        "amount": tax, "inclusive": behavior == "inclusive", "tax_rate_details": rate,
        "taxability_reason": found.reason, "taxable_amount": amount if behavior == "exclusive" else amount - tax,
    }  # fmt: skip


def _calculation(books: Books, given: Given) -> Document:
    return books.get("tax.calculation", given["id"])


def _calculation_lines(books: Books, given: Given) -> Document:
    return calculation_lines(books, given["id"], given)


def calculation_lines(
    books: Books, calculation: str, given: Given | None = None, *, with_breakdown: bool = False
) -> Document:
    """A page of its lines. `with_breakdown`: with each tax, as they are only sent on request."""
    found = books.get("tax.calculation", calculation)
    rows = found["_lines"] if with_breakdown else [line | {"tax_breakdown": None} for line in found["_lines"]]
    return page(rows, given or {"limit": 100}, f"/v1/tax/calculations/{calculation}/line_items")


_LINE: dict[str, Shape] = {
    "amount": Needed(Whole(0)), "metadata": Metadata(), "quantity": Whole(1), "reference": Text(500),
    "tax_behavior": Choice("exclusive", "inclusive"), "tax_code": Text(),
}  # fmt: skip
_DETAILS: dict[str, Shape] = {
    "address": ADDRESS | {"country": Needed(Text(2))}, "address_source": Choice("billing", "shipping"),
    "taxability_override": Choice("customer_exempt", "none", "reverse_charge"),
}  # fmt: skip
_CALCULATE: dict[str, Shape] = {
    "currency": Needed(Text()), "customer": Text(), "customer_details": _DETAILS,
    "line_items": Needed(Each(_LINE, 100)),
}  # fmt: skip
_SETTINGS: dict[str, Shape] = {
    "defaults": {"tax_behavior": Choice("exclusive", "inclusive", "inferred_by_currency"), "tax_code": Text()},
    "head_office": {"address": Needed(ADDRESS)},
}

OPERATIONS = (
    Operation("POST", "/v1/tax/calculations", "tax_calculations_write", _calculate, _CALCULATE),
    Operation("GET", "/v1/tax/calculations/{id}", "tax_calculations_read", _calculation),
    Operation("GET", "/v1/tax/calculations/{id}/line_items", "tax_calculations_read", _calculation_lines, PAGE),
    Operation("GET", "/v1/tax/settings", "tax_settings_read", _settings),
    Operation("POST", "/v1/tax/settings", "tax_settings_write", _set_settings, _SETTINGS),
)
