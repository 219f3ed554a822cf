"""The invoice as it was issued: canonical JSON, the same to the byte whenever it is made of the same facts.

Keys are sorted, numbers are decimal strings, instants are RFC 3339 in UTC, and nothing in it changes after the issue:
whether it was paid stands on the invoice, not in its document.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from farebox_portal.customers.tables import Customer
from farebox_portal.pricing.money import Currency, currency, decimal_text

VERSION = 1


def document(
    invoice: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], customer: Customer, seller: Mapping[str, Any]
) -> dict[str, Any]:
    """Rows by the names of their columns. Optional fields without a value are left out."""
    buyer = {"id": customer.id, "key": customer.key, "name": customer.name, "email": customer.primary_email}
    return rebuilt(invoice, lines, buyer, seller)


def rebuilt(
    invoice: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    customer: Mapping[str, Any],
    seller: Mapping[str, Any],
) -> dict[str, Any]:
    of = currency(invoice["currency"])
    return {
        "documentVersion": VERSION,
        "id": invoice["id"],
        "number": invoice["number"],
        "kind": invoice["kind"],
        "subscriptionId": invoice["subscription_id"],
        "currency": of.code,
        "period": {"from": rfc3339(invoice["period_start"]), "to": rfc3339(invoice["period_end"])},
        "issuedAt": rfc3339(invoice["issued_at"]),
        "dueAt": rfc3339(invoice["due_at"]),
        "customer": _said(customer),
        "seller": _said(seller),
        "lines": [line_document(line, of) for line in lines],
        "subtotal": decimal_text(invoice["subtotal_minor"], of),
        "tax": decimal_text(invoice["tax_minor"], of),
        "total": decimal_text(invoice["total_minor"], of),
    }


def line_document(line: Mapping[str, Any], of: Currency) -> dict[str, Any]:
    return _said(
        {
            "id": line["id"],
            "charge": line["charge_key"],
            "revision": line["revision"],
            "kind": line["kind"],
            "description": line["description"],
            "quantity": format(line["quantity"], "f"),
            "unitAmount": format(line["unit_amount"], "f"),
            "share": None if line["share"] == "1" else line["share"],
            "gross": decimal_text(line["gross_minor"], of),
            "amount": decimal_text(line["amount_minor"], of),
            "reductions": [_reduction(one, of) for one in line["reductions"]] or None,
            "taxes": [_tax(one, of) for one in line["taxes"]] or None,
            "tier": line["tier"],
            "meter": line["meter"],
            "metered": None if line["metered"] is None else format(line["metered"], "f"),
            "featureKey": line["feature_key"],
            "rateCardKey": line["card_key"],
            "phaseKey": line["phase_key"],
            "planId": line["plan_id"],
            "addonId": line["addon_id"],
            "period": {"from": rfc3339(line["period_start"]), "to": rfc3339(line["period_end"])},
        }
    )


def canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def rfc3339(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _reduction(one: Mapping[str, Any], of: Currency) -> dict[str, Any]:
    return {
        "kind": one["kind"],
        "description": one["description"],
        "source": one["source"],
        "amount": decimal_text(one["amountMinor"], of),
    }


def _tax(one: Mapping[str, Any], of: Currency) -> dict[str, Any]:
    return _said(
        {
            "name": one["name"],
            "amount": decimal_text(one["amountMinor"], of),
            "isInclusive": one["isInclusive"],
            "percentage": one.get("percentage"),
            "jurisdiction": one.get("jurisdiction"),
            "reason": one.get("reason"),
        }
    )


def _said(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
