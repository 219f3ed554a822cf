"""Customers at the provider, and what they pay with. Finds before it makes, and remembers before it goes on."""

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Engine
from sqlmodel import Session, col, or_, select, update

from farebox_portal.customers.tables import Customer
from farebox_portal.db import insert_into, transaction
from farebox_portal.errors import NotFound
from farebox_portal.invoicing import profiles
from farebox_portal.payments import operations
from farebox_portal.payments.gateway import CUSTOMER, INSTANCE, Gateway, Missing, Request
from farebox_portal.payments.tables import Collection, Payer, PaymentAccount


def payer_of(session: Session, customer_id: str, now: datetime) -> Payer:
    """Its row, made if need be; of two who make it at once both get the same."""
    new = insert_into(session, Payer).values(customer_id=customer_id, updated_at=now)
    session.connection().execute(new.on_conflict_do_nothing(index_elements=["customer_id"]))
    return session.get_one(Payer, customer_id)


def ensure_payer(engine: Engine, gateway: Gateway, account: PaymentAccount, customer_id: str, now: datetime) -> str:
    """The provider's id of a customer, who is made there once. Raises GatewayFailure, NotFound."""
    with transaction(engine) as session:
        known = payer_of(session, customer_id, now).provider_id
        customer = session.get(Customer, customer_id)
        if customer is None or customer.deleted_at is not None:
            raise NotFound("There is no such customer.", code="customer_not_found")
        request: Request = {
            "instance": account.instance,
            "customer": customer.id,
            "name": customer.name[:256],
            "email": customer.primary_email,
        }
        before = operations.last(session, customer_id, "customer")
    if known is not None:
        return known
    found = None
    if before is not None and before.state == "done":
        found = _living(gateway, before.result_id)  # made, and whoever made it died before it was written down
    elif before is not None and operations.needs_look(before, now):
        # What failed may have been done all the same (a 500 says nothing of that), and is not done again by its key.
        found = _find(gateway, account, customer)
    id_ = found or operations.perform(engine, gateway, account.instance, customer_id, "customer", request, now).id
    with transaction(engine) as session:
        row = payer_of(session, customer_id, now)
        row.provider_id, row.updated_at = id_, now
        session.add(row)
    return id_


def _living(gateway: Gateway, id_: str | None) -> str | None:
    """This one, unless it was deleted there since."""
    try:
        return None if id_ is None or gateway.customer(id_).is_deleted else id_
    except Missing:
        return None


def _find(gateway: Gateway, account: PaymentAccount, customer: Customer) -> str | None:
    """One that was made before, whatever the answer was."""
    ours = {INSTANCE: account.instance, CUSTOMER: customer.id}
    rows = gateway.customers(customer.primary_email)
    return next((row.id for row in rows if ours.items() <= (row.metadata or {}).items()), None)


def refresh(
    engine: Engine,
    gateway: Gateway,
    account: PaymentAccount,
    customer_id: str,
    now: datetime,
    *,
    prefers_latest: bool = False,
) -> bool:
    """Read again what the customer pays with; whether there is something. A new one has open invoices paid at once.

    `prefers_latest`: somebody has just left it, so it is for what comes, too. Raises GatewayFailure.
    """
    with transaction(engine, read_only=True) as session:
        row = session.get(Payer, customer_id)
        seen = operations.seen_of(session, customer_id)
        is_taxed = profiles.tax_mode(profiles.default(session)) != "off"
    if row is None or row.provider_id is None:
        return False
    try:
        remote = gateway.customer(row.provider_id)
    except Missing:
        remote = None
    if remote is None or remote.is_deleted:
        # Never made anew in silence: there is nothing to charge until somebody leaves a card again.
        _store(engine, customer_id, row.provider_id, _NOBODY, now)
        return False
    operations.conclude(engine, customer_id, seen, lambda step: step == f"method:{remote.method}", now)
    methods = {method.id: method for method in gateway.methods(row.provider_id)}
    chosen = methods.get(remote.method or "")
    if methods and (prefers_latest or chosen is None):
        chosen = next(iter(methods.values()))
    if chosen is not None and chosen.id != remote.method:
        request: Request = {"id": row.provider_id, "method": chosen.id}
        if not remote.has_address and chosen.address is not None:
            request["address"] = dict(chosen.address)  # tax is by where the customer is
        operations.perform(engine, gateway, account.instance, customer_id, "method", request, now, part=chosen.id)
    found = _Found(row.provider_id, *((None, None) if chosen is None else (chosen.id, chosen.label)))
    if is_taxed:
        found = replace(found, tax_status=gateway.tax_status(row.provider_id))
    _store(engine, customer_id, row.provider_id, found, now)
    return found.method_id is not None


@dataclass(frozen=True, slots=True)
class _Found:
    """What the provider has of a customer."""

    provider_id: str | None = None
    method_id: str | None = None
    method_label: str | None = None
    tax_status: str | None = None


_NOBODY = _Found()


def _store(engine: Engine, customer_id: str, before: str, found: _Found, now: datetime) -> None:
    with transaction(engine) as session:
        row = payer_of(session, customer_id, now)
        if row.provider_id != before:
            return  # somebody else was quicker, and knows more
        is_new = found.method_id is not None and found.method_id != row.method_id
        is_taxable_now = found.tax_status == "supported" != row.tax_status
        for name in ("provider_id", "method_id", "method_label", "tax_status"):
            setattr(row, name, getattr(found, name))
        row.updated_at = now
        session.add(row)
        if is_new or is_taxable_now:
            pay_open_now(session, customer_id, now)


def pay_open_now(session: Session, customer_id: str, now: datetime) -> None:
    """A try that was to come later, or not at all, is made at once."""
    session.exec(
        update(Collection)
        .where(col(Collection.customer_id) == customer_id)
        .where(col(Collection.state).in_(("waiting", "failed", "action_required")))
        .values(pay_at=now, look_at=now, updated_at=now)
    )


def lease(engine: Engine, customer_id: str, now: datetime, until: datetime) -> bool:
    """Whether we may collect from this customer: one does at a time. Ends by `release`, or by itself."""
    with transaction(engine) as session:
        payer_of(session, customer_id, now)
        is_free = or_(col(Payer.leased_until).is_(None), col(Payer.leased_until) <= now)
        taken = update(Payer).where(col(Payer.customer_id) == customer_id, is_free).values(leased_until=until)
        return session.connection().execute(taken).rowcount == 1


def release(engine: Engine, customer_id: str, until: datetime) -> None:
    with transaction(engine) as session:
        ours = col(Payer.customer_id) == customer_id, col(Payer.leased_until) == until
        session.connection().execute(update(Payer).where(*ours).values(leased_until=None))


def customer_of(session: Session, provider_id: str) -> str | None:
    """Our customer behind the provider's."""
    return session.exec(select(Payer.customer_id).where(Payer.provider_id == provider_id)).first()
