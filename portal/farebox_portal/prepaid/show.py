"""A customer's wallet: what is left of everything, what is being paid, and what has moved."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import literal, or_
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.customers.tables import Customer
from farebox_portal.documents import Instant, Output
from farebox_portal.errors import NotFound
from farebox_portal.invoicing.status import OPEN
from farebox_portal.invoicing.tables import Invoice, LedgerEntry
from farebox_portal.prepaid import credits, recharge
from farebox_portal.pricing.money import currency, decimal_text
from farebox_portal.subscriptions import lifecycle
from farebox_portal.usage.access import entitlement_value
from farebox_portal.wallet.purse import usable
from farebox_portal.wallet.tables import AutoRecharge, CreditLot, TopUp


class MoneyBalance(Output):
    """`balance` pays the next invoices; `pending` has been ordered and is not paid yet."""

    currency: str
    balance: str
    pending: str
    credits: list[credits.CreditDocument]


class UnitsLeft(Output):
    """Without an id: what the plan itself allows."""

    credit_id: str | None = None
    left: int


class UnitsBalance(Output):
    """What may still be used of a feature, as the ledger has it: seconds behind what the gateway holds to."""

    subscription_id: str
    feature_key: str
    balance: int | None = None
    usage: int | None = None
    pending: int
    credits: list[UnitsLeft]


class WalletDocument(Output):
    customer_id: str
    money: list[MoneyBalance]
    units: list[UnitsBalance]
    auto_recharge: recharge.AutoRechargeDocument | None = None


class LedgerDocument(Output):
    """`amount` moved from the account `credit` to the account `debit`; `credit:ID` is what is left in a credit."""

    number: int
    at: Instant
    debit: str
    credit: str
    amount: str
    currency: str
    invoice_id: str | None = None


def wallet(session: Session, customer: Customer, now: datetime) -> WalletDocument:
    lots = session.exec(credits.every(customer)).all()
    waiting = (
        select(TopUp)
        .join(Invoice, col(Invoice.id) == col(TopUp.invoice_id))
        .where(TopUp.customer_id == customer.id, col(Invoice.status).in_((*OPEN, "held")))
    )
    bought = session.exec(waiting).all()
    rule = session.get(AutoRecharge, customer.id)
    return WalletDocument(
        customer_id=customer.id,
        money=_money(usable(lots, now), [one for one in bought if one.units is None], now),
        units=_units(session, customer, lots, [one for one in bought if one.units is not None], now),
        auto_recharge=None if rule is None else recharge.show(session, rule, now),
    )


def entries(customer: Customer) -> SelectOfScalar[LedgerEntry]:
    """Everything that moved money into credit or out of it, the latest first."""
    lots = select(literal("credit:").concat(col(CreditLot.id))).where(CreditLot.customer_id == customer.id)
    ordered = select(literal("credit:").concat(col(TopUp.lot_id))).where(TopUp.customer_id == customer.id)
    accounts = lots.union(ordered)
    ours = or_(col(LedgerEntry.debit).in_(accounts), col(LedgerEntry.credit).in_(accounts))
    rows = select(LedgerEntry).where(LedgerEntry.customer_id == customer.id, ours)
    return rows.order_by(col(LedgerEntry.number).desc())


def show_entry(entry: LedgerEntry) -> LedgerDocument:
    assert entry.number is not None
    return LedgerDocument(
        number=entry.number,
        at=entry.at,
        debit=entry.debit,
        credit=entry.credit,
        amount=decimal_text(entry.amount_minor, currency(entry.currency)),
        currency=entry.currency,
        invoice_id=entry.invoice_id,
    )


def _money(lots: Sequence[CreditLot], bought: list[TopUp], now: datetime) -> list[MoneyBalance]:
    balances: Counter[str] = Counter()
    pending: Counter[str] = Counter()
    for lot in lots:
        balances[lot.currency] += lot.left_minor
    for one in bought:
        pending[one.currency] += one.amount_minor
    return [
        MoneyBalance(
            currency=code,
            balance=decimal_text(balances[code], currency(code)),
            pending=decimal_text(pending[code], currency(code)),
            credits=[credits.show(lot, now) for lot in lots if lot.currency == code],
        )
        for code in sorted({*balances, *pending})
    ]


def _units(
    session: Session,
    customer: Customer,
    lots: Sequence[CreditLot],
    bought: list[TopUp],
    now: datetime,
) -> list[UnitsBalance]:
    pending: Counter[tuple[str, str]] = Counter()
    for one in bought:
        pending[one.subscription_id, one.feature_key or ""] += one.units or 0
    having = {(lot.subscription_id or "", lot.feature_key or "") for lot in lots if lot.units is not None}
    running = {row.id for row in lifecycle.open_subscriptions(session, customer.id, now)}
    found = []
    for subscription_id, feature_key in sorted(having | set(pending)):
        if subscription_id in running:
            found.append(_units_of(session, subscription_id, feature_key, pending[subscription_id, feature_key], now))
    return found


def _units_of(session: Session, subscription_id: str, feature_key: str, pending: int, now: datetime) -> UnitsBalance:
    try:
        value = entitlement_value(session, subscription_id, feature_key, now)
    except NotFound:  # the plan does not have it at present
        return UnitsBalance(subscription_id=subscription_id, feature_key=feature_key, pending=pending, credits=[])
    return UnitsBalance(
        subscription_id=subscription_id,
        feature_key=feature_key,
        balance=value.balance,
        usage=value.usage,
        pending=pending,
        credits=[UnitsLeft(credit_id=one.grant_id, left=one.left) for one in value.grants],
    )
