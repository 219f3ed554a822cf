"""`farebox rate` and `farebox simulate`. Imports stand inside, as in `cli`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farebox_portal.catalog_files.ending import ends_with_faults

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farebox_portal.quotes.quote import QuoteDocument

AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON.")]


@ends_with_faults
def rate(
    rate_card: Annotated[str, typer.Option(help="A rate card, YAML or JSON; - reads standard input.")],
    quantity: Annotated[str, typer.Option(help="How much was used, such as 15000 or 20.5.")],
    currency: Annotated[str, typer.Option(help="An ISO 4217 code.")] = "USD",
    as_json: AsJson = False,
) -> None:
    """Rate one rate card offline with the invoice's engine: lines and total. Exits with 2 when it is at fault."""
    from farebox_portal.catalog_files.files import read_one
    from farebox_portal.errors import FareboxError, Invalid
    from farebox_portal.pricing import money
    from farebox_portal.quotes.card import rate_whole, read_card
    from farebox_portal.quotes.preview import read_quantity
    from farebox_portal.quotes.quote import quote

    file = read_one(rate_card)
    try:
        of, used = money.currency(currency), read_quantity(quantity)
    except ValueError as error:
        raise FareboxError(str(error)) from None
    try:
        card = read_card(file.value)
    except Invalid as error:
        raise Invalid([file.place(fault) for fault in error.errors]) from None
    found = quote(rate_whole(card, used, of), of)
    typer.echo(json.dumps(found.wire()) if as_json else _as_text(found))


def _as_text(found: "QuoteDocument") -> str:
    rows = [(line.description, f"{line.quantity} × {line.unit_amount}", line.amount) for line in found.lines]
    return as_table([*rows, ("Total", found.currency, found.total)])


def as_table(rows: "Sequence[Sequence[str]]") -> str:
    """Columns as wide as their widest cell: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        [f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


@ends_with_faults
def simulate(
    plan: Annotated[str, typer.Option(help="A plan, YAML or JSON; - reads standard input.")],
    from_: Annotated[str, typer.Option("--from", help="An instant or a day (UTC), such as 2026-01-01.")],
    to: Annotated[str, typer.Option(help="Up to, not including, this instant or day.")],
    subscribers_of: Annotated[
        str | None, typer.Option(help="Whose usage: the subscribers of this plan. By default of the file's own key.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Re-price real past usage under another plan: revenue, and the customers affected. Nothing is written.

    FAREBOX_PORTAL_URL and FAREBOX_ADMIN_TOKEN say which portal. Exits with 2 when anything is wrong.
    """
    from farebox_portal.catalog_files.files import read_plan
    from farebox_portal.catalog_files.remote import Remote
    from farebox_portal.errors import Invalid

    file = read_plan(plan)
    body = {"plan": file.value, "from": _instant("--from", from_), "to": _instant("--to", to)}
    if subscribers_of is not None:
        body["subscribersOf"] = subscribers_of
    with Remote() as portal:
        try:
            found = portal.call("POST", "/v1/pricing/simulations", body)
        except Invalid as error:
            raise Invalid([file.place(fault, "/plan") for fault in error.errors]) from None
    typer.echo(json.dumps(found) if as_json else _simulation_text(found))


def _instant(option: str, said: str) -> str:
    from datetime import UTC, datetime

    from farebox_portal.errors import Invalid

    try:
        instant = datetime.fromisoformat(said)
    except ValueError:
        raise Invalid([{"pointer": option, "detail": "must be an instant or a day such as 2026-01-01"}]) from None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).isoformat()


def _simulation_text(found: dict[str, Any]) -> str:
    rows = [("Customer", "Now", "Then", "Difference", "Over the limit")]
    for one in found["items"]:
        beyond = ", ".join(f"{units} {key}" for key, units in one.get("overLimit", {}).items())
        rows.append((one["customerKey"], one["before"], one["after"], one["difference"], beyond))
    rows.append((f"Total {found['currency']}", found["before"], found["after"], found["difference"], ""))
    more, less, customers = found["customersPayingMore"], found["customersPayingLess"], found["customers"]
    affected = f"Customers: {customers}; paying more {more}, less {less}, the same {customers - more - less}"
    return f"{as_table(rows)}\n{affected}; over a hard limit {found['customersOverLimit']}"
