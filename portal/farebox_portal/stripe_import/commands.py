"""`farebox import-stripe`. Imports stand inside, as in `cli`."""

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from farebox_portal.stripe_import.proposal import Left, Proposal


def import_stripe(
    apply: Annotated[bool, typer.Option("--apply", help="Write it; without this, only show what would be.")] = False,
    grant: Annotated[
        list[str] | None,
        typer.Option("--grant", help="A feature that each plan gets too, unlimited and free; may be repeated."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file",
            help="A key that may read Products, Prices, Billing meters, "
            "Customers and Subscriptions; by default FAREBOX_STRIPE_API_KEY.",
        ),
    ] = None,
    cancellations: Annotated[
        Path | None, typer.Option("--cancellations", help="Write what to cancel at Stripe to this file, as CSV.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """Bring plans, customers and subscriptions over from Stripe Billing. Customers and their cards stay where they are.

    Shows what would be, and why the rest would not; nothing is written without --apply, and nothing twice. Stripe goes
    on billing the periods that run: cancel its subscriptions with the end of these, by the list that is given.
    """
    from farebox_portal.stripe_import.proposal import lines

    proposal, refused = _run(apply=apply, grants=tuple(grant or ()), key_file=key_file)
    proposal.left += refused
    if cancellations is not None:
        _write_csv(cancellations, proposal)
    if as_json:
        typer.echo(json.dumps(document_of(proposal, is_applied=apply)))
    else:
        for line in lines(proposal):
            typer.echo(line)
        typer.echo(_summary(proposal, is_applied=apply))
    sys.exit(1 if refused else 0)


def _run(*, apply: bool, grants: tuple[str, ...], key_file: Path | None) -> "tuple[Proposal, list[Left]]":
    from farebox_portal.audit import acting
    from farebox_portal.db import make_engine, transaction
    from farebox_portal.errors import CannotStart
    from farebox_portal.logs import configure_logs
    from farebox_portal.migrate import require_current
    from farebox_portal.payments.account import connected, is_checked
    from farebox_portal.payments.open import RETRIES_OF_JOBS, open_gateway, open_reader
    from farebox_portal.settings import load_settings
    from farebox_portal.stripe_import.fetch import fetch
    from farebox_portal.stripe_import.proposal import propose
    from farebox_portal.stripe_import.write import read_known, write
    from farebox_portal.testclock import portal_clock

    configure_logs()
    settings = load_settings()
    engine = make_engine(settings.sql_url)
    require_current(engine)
    gateway = open_gateway(settings, RETRIES_OF_JOBS)
    if gateway is None or settings.stripe_api_key is None:
        raise CannotStart("FAREBOX_STRIPE_API_KEY is not set")
    key = settings.stripe_api_key.get_secret_value() if key_file is None else _key(key_file)
    reader = open_reader(settings, key)
    if reader.is_live != gateway.is_live:
        raise CannotStart("--key-file: the key is of the other mode; live and test never mix")
    with transaction(engine, read_only=True) as session:
        account = connected(session)
        known = read_known(session, grants)
    for feature in grants:
        if feature not in known.features:
            raise CannotStart(f"--grant: there is no feature '{feature}'")
    _require_same_account(reader, None if account is None else account.account_id)
    now = portal_clock(settings, engine).now()
    proposal = propose(fetch(reader), known, now)
    if not apply:
        return proposal, []
    if account is None or not is_checked(account, gateway):
        raise CannotStart("connect the account first: POST /v1/setup/stripe; customers are linked to it")
    with acting("command:import-stripe", now):
        return proposal, write(engine, gateway, account, proposal, now)


def _require_same_account(reader: Any, connected_id: str | None) -> None:
    from farebox_portal.errors import CannotStart
    from farebox_portal.payments.gateway import GatewayFailure

    try:
        there = reader.account().id
    except GatewayFailure as failure:
        raise CannotStart(f"Stripe: {failure.detail}") from None
    if connected_id not in (None, there):
        raise CannotStart(f"the key is of the account {there}, and {connected_id} is connected")


def _key(path: Path) -> str:
    from farebox_portal.errors import CannotStart

    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise CannotStart(f"--key-file: cannot read {path}") from None


def _write_csv(path: Path, proposal: "Proposal") -> None:
    """For people, and for `stripe subscriptions update … -d cancel_at_period_end=true`, a line at a time."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("subscription", "customer", "period_end", "command"))
        for one in proposal.cancellations:
            command = f"stripe subscriptions update {one.subscription} -d cancel_at_period_end=true"
            rows.writerow((one.subscription, one.customer, one.at.isoformat(), command))


def _summary(proposal: "Proposal", *, is_applied: bool) -> str:
    counts = (
        f"{len(proposal.plans)} plans, {len(proposal.customers)} customers, {len(proposal.subscriptions)} subscriptions"
    )
    rest = f"{len(proposal.left)} not carried over, {proposal.known_count} here already"
    ends = f"{len(proposal.cancellations)} to cancel at Stripe with the end of their period"
    said = "Written:" if is_applied else "Nothing was written (--apply does). There would be"
    return f"{said} {counts}; {rest}; {ends}."


def document_of(proposal: "Proposal", *, is_applied: bool) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "applied": is_applied,
        "meters": proposal.meters,
        "features": proposal.features,
        "plans": proposal.plans,
        "customers": [
            {
                "stripeId": one.stripe_id,
                "name": one.name,
                "currency": one.currency,
                "hasPaymentMethod": bool(one.method),
            }
            for one in proposal.customers
        ],
        "subscriptions": [
            {
                "stripeId": one.stripe_id,
                "customer": one.customer,
                "plan": one.plan,
                "startsAt": one.starts_at.isoformat(),
                "billingAnchor": one.anchor.isoformat(),
            }
            for one in proposal.subscriptions
        ],
        "notCarriedOver": [{"kind": one.kind, "id": one.id, "reason": one.reason} for one in proposal.left],
        "notes": proposal.notes,
        "cancelAtStripe": [
            {"subscription": one.subscription, "customer": one.customer, "at": one.at.isoformat()}
            for one in proposal.cancellations
        ],
        "hereAlready": proposal.known_count,
    }
