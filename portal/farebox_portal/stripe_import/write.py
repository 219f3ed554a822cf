"""A proposal into the database. Done twice, it changes nothing: everything is known by Stripe's ids.

The catalog is written in one transaction, and each customer and subscription in one of its own: what cannot be written
of one is told, and keeps no other from being written.
"""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from farebox_portal.catalog import configuration, features, meters, plans
from farebox_portal.catalog.features import FeatureInput
from farebox_portal.catalog.meters import MeterInput
from farebox_portal.catalog.tables import Feature, Meter, Plan
from farebox_portal.customers import accounts
from farebox_portal.customers.accounts import CustomerInput
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.errors import FareboxError
from farebox_portal.payments import operations
from farebox_portal.payments.gateway import Gateway, GatewayFailure
from farebox_portal.payments.payers import payer_of
from farebox_portal.payments.tables import Payer, PaymentAccount
from farebox_portal.stripe_import.proposal import CustomerDraft, Known, Left, Proposal, SubscriptionDraft
from farebox_portal.subscriptions import lifecycle
from farebox_portal.subscriptions.lifecycle import SubscriptionInput
from farebox_portal.subscriptions.tables import Subscription

STRIPE_CUSTOMER = "stripe_customer"
STRIPE_SUBSCRIPTION = "stripe_subscription"
"""In the metadata: what it was at Stripe."""


def read_known(session: Session, grants: tuple[str, ...] = ()) -> Known:
    linked = session.exec(select(Payer.provider_id, Payer.customer_id).where(col(Payer.provider_id).is_not(None)))
    imported = (metadata.get(STRIPE_SUBSCRIPTION) for metadata in session.exec(select(Subscription.metadata_)))
    return Known(
        features=plans.known_features(session),
        meters={meter.slug: meter.aggregation for meter in session.exec(select(Meter))},
        plans=frozenset(session.exec(select(Plan.key).where(col(Plan.published_at).is_not(None)))),
        customers={str(provider_id): customer_id for provider_id, customer_id in linked},
        subscriptions=frozenset(str(one) for one in imported if one),
        takes_several=configuration.read(session).multiple_subscriptions_enabled,
        grants=grants,
    )


def write(engine: Engine, gateway: Gateway, account: PaymentAccount, proposal: Proposal, now: datetime) -> list[Left]:
    """What could not be written after all, and why."""
    with transaction(engine) as session:
        _catalog(session, proposal, now)
    return list(_customers(engine, gateway, account, proposal, now))


def _catalog(session: Session, proposal: Proposal, now: datetime) -> None:
    """Raises what the catalog refuses; then nothing of it is written."""
    for document in proposal.meters:
        if session.exec(select(Meter.id).where(Meter.slug == document["slug"])).first() is None:
            meters.create(session, MeterInput.model_validate(document), now)
    session.flush()
    for document in proposal.features:
        if session.exec(select(Feature.id).where(Feature.key == document["key"])).first() is None:
            features.create(session, FeatureInput.model_validate(document), now)
    session.flush()
    for document in proposal.plans:
        if plans.newest_active(session, document["key"]) is None:
            plan = plans.create(session, document, now)
            session.flush()
            plans.publish(session, plan, now)
    session.flush()


def _customers(
    engine: Engine, gateway: Gateway, account: PaymentAccount, proposal: Proposal, now: datetime
) -> Iterator[Left]:
    wanted: dict[str, list[SubscriptionDraft]] = defaultdict(list)
    for draft in proposal.subscriptions:
        wanted[draft.customer].append(draft)
    drafts = {draft.stripe_id: draft for draft in proposal.customers}
    for stripe_id in dict.fromkeys([*drafts, *wanted]):
        try:
            with transaction(engine) as session:
                customer = _customer(session, stripe_id, drafts.get(stripe_id), now)
        except FareboxError as refused:
            yield Left("customer", stripe_id, refused.detail)
            yield from (Left("subscription", one.stripe_id, "its customer is not here") for one in wanted[stripe_id])
            continue
        for one in wanted[stripe_id]:
            try:
                # First: what is broken off in between is done again, as long as there is no subscription.
                _take_method(engine, gateway, account, customer.id, one, now)
                with transaction(engine) as session:
                    _subscribe(session, customer.key, one, now)
            except (FareboxError, GatewayFailure) as refused:
                yield Left("subscription", one.stripe_id, refused.detail)


def _customer(session: Session, stripe_id: str, draft: CustomerDraft | None, now: datetime) -> Customer:
    """The one who is linked to this id, or a new one who is then. Raises Conflict when its key is somebody else's."""
    linked = session.exec(select(Payer.customer_id).where(Payer.provider_id == stripe_id)).first()
    if linked is not None or draft is None:
        return accounts.get(session, linked or stripe_id)
    document = {
        "key": stripe_id,
        "name": draft.name,
        "primaryEmail": draft.email,
        "currency": draft.currency,
        "metadata": {STRIPE_CUSTOMER: stripe_id},
    }
    customer = accounts.create(session, CustomerInput.model_validate(document), now)
    payer = payer_of(session, customer.id, now)
    payer.provider_id, payer.method_id, payer.updated_at = stripe_id, draft.method, now
    session.add(payer)
    return customer


def _subscribe(session: Session, customer_key: str, draft: SubscriptionDraft, now: datetime) -> None:
    document = {
        "plan": {"key": draft.plan},
        "customerKey": customer_key,
        "timing": draft.starts_at,
        "billingAnchor": draft.anchor,
        "metadata": {STRIPE_SUBSCRIPTION: draft.stripe_id},
    }
    subscription = lifecycle.create(session, SubscriptionInput.model_validate(document), now)
    if draft.cancel_at is not None:
        lifecycle.cancel(session, subscription, draft.cancel_at, now)


def _take_method(
    engine: Engine, gateway: Gateway, account: PaymentAccount, customer_id: str, draft: SubscriptionDraft, now: datetime
) -> None:
    """A subscription's own way to pay becomes the customer's: invoices here are of customers. Raises GatewayFailure."""
    if draft.method is None:
        return
    with transaction(engine, read_only=True) as session:
        payer = session.get_one(Payer, customer_id)
    if payer.method_id == draft.method:
        return
    request = {"id": draft.customer, "method": draft.method}
    operations.perform(engine, gateway, account.instance, customer_id, "method", request, now, part=draft.method)
    with transaction(engine) as session:
        row = session.get_one(Payer, customer_id)
        row.method_id, row.method_label, row.updated_at = draft.method, None, now
        session.add(row)
