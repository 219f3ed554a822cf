"""Everything about some subscriptions that their next invoices are made from, read in a few statements."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from typing import Any, cast

from sqlalchemy import select as sql_select
from sqlmodel import Session, col, select

from farebox_portal.catalog import coupons
from farebox_portal.catalog.tables import Coupon as CouponRow
from farebox_portal.catalog.tables import Plan
from farebox_portal.customers.tables import Customer
from farebox_portal.invoicing import profiles
from farebox_portal.invoicing.charges import Due, cards, charges
from farebox_portal.invoicing.compose import NOTHING, Billed, line_key
from farebox_portal.invoicing.fees import changes_within
from farebox_portal.invoicing.paper import Columns, Paper, rated_line, read_paper
from farebox_portal.invoicing.profiles import TaxMode
from farebox_portal.invoicing.sanity import HISTORY
from farebox_portal.invoicing.steps import Step, again, next_step, steps
from farebox_portal.invoicing.tables import CreditRow, Invoice, InvoiceLine
from farebox_portal.invoicing.terms import HORIZON, Terms
from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.coupons import Coupon
from farebox_portal.pricing.period import period_at
from farebox_portal.pricing.settle import Credit
from farebox_portal.subscriptions.life import Life
from farebox_portal.subscriptions.rows import read_lives, read_plans
from farebox_portal.subscriptions.stretches import Stretch, stretch_at, stretches
from farebox_portal.subscriptions.tables import AT_ONCE, Redemption, SegmentRow, Subscription
from farebox_portal.usage.access import used_share
from farebox_portal.wallet.purse import Purse, read_purses

_MICROSECOND = datetime.resolution


@dataclass(frozen=True)
class RedeemedCoupon:
    """In force in [starts_at, ends_at); `is_once`: until the first invoice that it makes cheaper."""

    terms: Coupon
    starts_at: datetime
    ends_at: datetime | None
    is_once: bool


@dataclass
class Book:
    """One subscription. What invoicing does to it is noted here as it goes on, so that several steps can follow.

    `dues`: every charge that is not long over, up to the end of the running period.
    """

    subscription: Subscription
    customer: Customer
    life: Life
    cut: tuple[Stretch, ...]
    dues: list[Due]
    steps: list[Step]
    next_at: datetime | None
    sequence: int = 0
    draft: Paper | None = None
    billed: dict[str, Billed] = field(default_factory=dict)
    credits: list[Credit] = field(default_factory=list)
    purse: Purse = field(default_factory=Purse)  # what was paid ahead; all books of a customer have the same
    history: list[int] = field(default_factory=list)  # totals of periods before, the last first
    coupons: list[RedeemedCoupon] = field(default_factory=list)
    closed: set[tuple[str, datetime]] = field(default_factory=set)  # (kind, start of the period) of what is not void
    tax_mode: TaxMode = "off"

    @cached_property
    def plan_keys(self) -> dict[str, str]:
        """By id, of every plan version that the life is ever on."""
        return {stretch.plan.id: stretch.plan.key for stretch in self.cut}

    def coupon_at(self, at: datetime) -> RedeemedCoupon | None:
        """What takes off something of an invoice that closes at this instant."""
        return next(
            (one for one in self.coupons if one.starts_at <= at and (one.ends_at is None or at < one.ends_at)), None
        )

    @cached_property
    def known(self) -> set[str]:
        return {due.key for due in self.dues}

    @property
    def currency(self) -> str:
        return self.cut[0].plan.currency


class Shelf:
    """Rate cards by the phase of a plan version: ten thousand subscriptions share a handful."""

    def __init__(self) -> None:
        self._cards: dict[tuple[str, str], list[RateCard]] = {}

    def cards(self, stretch: Stretch) -> list[RateCard]:
        place = stretch.plan.id, stretch.phase["key"]
        if place not in self._cards:
            self._cards[place] = cards(stretch.phase)
        return self._cards[place]


def read_books(
    session: Session,
    rows: Sequence[Subscription],
    terms: Terms,
    now: datetime,
    shelf: Shelf,
    since: datetime | None = None,
) -> list[Book]:
    """By the id of the subscription. Fixes the used share of changes that nobody ordered for at once.

    `since`: look back to there, if that is further than HORIZON.
    """
    lives = read_lives(session, rows)
    plans = read_plans(session, lives.values())
    ids = [row.id for row in rows]
    owners = {row.id: row for row in session.exec(select(Customer).where(col(Customer.id).in_(_owners(rows))))}
    books = []
    looks_back: dict[str, datetime] = {}
    for row in sorted(rows, key=lambda row: row.id):
        looks_back[row.id] = _since(row, lives[row.id], since)
        life = _with_used_shares(session, row, lives[row.id], plans, looks_back[row.id], now)
        books.append(_book(row, owners[row.customer_id], life, plans, terms, looks_back[row.id], now, shelf))
    billed, papers = _read_lines(session, looks_back)
    granted = _read_credits(session, ids)
    history = _read_history(session, ids)
    redeemed = _read_coupons(session, ids)
    profile = profiles.default(session)
    purses = read_purses(session, owners, now)
    for book in books:
        id_ = book.subscription.id
        book.billed = billed[id_]
        book.draft = papers.get(id_)
        book.coupons = redeemed[id_]
        book.tax_mode = profiles.tax_mode_for(profile, book.customer, book.currency)
        book.sequence, book.history, book.closed = history[id_]
        _take_credits(book, granted[id_])
        book.purse = purses.setdefault((book.customer.id, book.currency), Purse())
    return books


def _owners(rows: Iterable[Subscription]) -> set[str]:
    return {row.customer_id for row in rows}


def _since(row: Subscription, life: Life, since: datetime | None) -> datetime:
    """Charges that ended before are not looked at any more."""
    usual = _seen(row, life) - HORIZON
    return usual if since is None else min(usual, since)


def _seen(row: Subscription, life: Life) -> datetime:
    return life.start - _MICROSECOND if row.invoiced_to is None else row.invoiced_to


def _book(
    row: Subscription,
    customer: Customer,
    life: Life,
    plans: Mapping[str, Plan],
    terms: Terms,
    since: datetime,
    now: datetime,
    shelf: Shelf,
) -> Book:
    cut = stretches(life, plans)
    cadence = cut[stretch_at(cut, now)].plan.billing_cadence
    until = period_at(life.anchor, cadence, max(now, life.start)).end
    dues = list(charges(cut, life.anchor, until, since=since, cards_of=shelf.cards))
    seen = _seen(row, life)
    found = steps(life, cut, dues, terms.window, seen, now)
    if row.invoice_due_at == AT_ONCE and not (found and found[-1].at == now):
        found += again(life, cut, dues, terms.window, now)
    return Book(row, customer, life, cut, dues, found, next_step(life, cut, dues, terms.window, now))


def _with_used_shares(
    session: Session, row: Subscription, life: Life, plans: Mapping[str, Plan], since: datetime, now: datetime
) -> Life:
    """How much of the allowances was used when a planned change came: asked once, so that the answer stays."""
    unknown = [one for one in life.segments[1:] if one.used_share is None and not one.is_paused and one.start <= now]
    if not unknown:
        return life
    cut = stretches(life, plans)
    dues = charges(cut, life.anchor, now, since=since)
    left = {segment.start for segment in changes_within(dues, life, now)}
    known: dict[datetime, Fraction] = {}
    for segment in unknown:
        if segment.start in left:
            known[segment.start] = used_share(session, row.id, life.anchor, _until(cut, segment.start), segment.start)
            session.get_one(SegmentRow, (row.id, segment.start)).used_share = str(known[segment.start])
    segments = tuple(replace(one, used_share=known.get(one.start, one.used_share)) for one in life.segments)
    return replace(life, segments=segments)


def _until(cut: tuple[Stretch, ...], at: datetime) -> tuple[Stretch, ...]:
    """As it was before: the allowances of the plan that is left."""
    return tuple(stretch for stretch in cut if stretch.start < at)


def _read_lines(
    session: Session, since: Mapping[str, datetime]
) -> tuple[dict[str, dict[str, Billed]], dict[str, Paper]]:
    """(what was billed, by subscription and charge; drafts by subscription). `since`: of each, as for its dues."""
    ids = list(since)
    billed: dict[str, dict[str, Billed]] = defaultdict(dict)
    drafts: dict[str, tuple[Invoice, list[InvoiceLine]]] = {}
    found = select(Invoice).where(col(Invoice.subscription_id).in_(ids), Invoice.status == "draft")
    for invoice in session.exec(found):
        drafts[invoice.subscription_id] = invoice, []
    # Plain rows, as there are many of them: objects that a session watches take several times as long.
    lines, invoices = InvoiceLine.__table__, Invoice.__table__  # type: ignore[attr-defined]
    rows = (
        sql_select(lines, invoices.c.status, invoices.c.is_rebilled)
        .join(invoices, invoices.c.id == lines.c.invoice_id)
        .where(lines.c.subscription_id.in_(ids), lines.c.ends_at > min(since.values()))
        .order_by(lines.c.subscription_id, invoices.c.sequence, lines.c.position)
    )
    for row in session.connection().execute(rows).mappings():
        id_ = row["subscription_id"]
        if row["ends_at"] > since[id_]:
            before = billed[id_].get(row["charge_key"], NOTHING)
            columns = cast("Columns", row)
            billed[id_][row["charge_key"]] = with_line(before, columns, row["status"], row["is_rebilled"])
    own = [invoice.id for invoice, _ in drafts.values()]
    for line in session.exec(
        select(InvoiceLine).where(col(InvoiceLine.invoice_id).in_(own)).order_by(col(InvoiceLine.position))
    ):
        drafts[line.subscription_id][1].append(line)
    return billed, {id_: read_paper(*draft) for id_, draft in drafts.items()}


def with_line(before: Billed, columns: Mapping[str, Any], status: str, is_rebilled: bool = False) -> Billed:
    """What was billed of a charge, with one line more. `status`: that of its invoice."""
    line = rated_line(columns)
    revisions = {**before.revisions, line_key(line): columns["revision"] + 1}
    if is_rebilled:
        return replace(before, revisions=revisions)
    return replace(
        before,
        lines=(*before.lines, line),
        coupon_minor=before.coupon_minor + _off(columns, "coupon"),
        settled_minor=before.settled_minor + settled_minor(columns, status),
        revisions=revisions,
    )


def settled_minor(columns: Mapping[str, Any], status: str) -> int:
    """What was paid of a line and not taken back: its amount once the invoice is paid; until then what credits paid."""
    by_credit = 0 if status == "void" else _off(columns, "credit")
    if status != "paid":
        return by_credit
    return max(0, by_credit + int(columns["amount_minor"]) - int(columns["credited_minor"]))


def _off(columns: Mapping[str, Any], kind: str) -> int:
    return sum(int(one["amountMinor"]) for one in columns["reductions"] if one["kind"] == kind and one["source"])


def _read_credits(session: Session, ids: Sequence[str]) -> dict[str, list[CreditRow]]:
    found: dict[str, list[CreditRow]] = defaultdict(list)
    rows = select(CreditRow).where(col(CreditRow.subscription_id).in_(ids))
    rows = rows.order_by(col(CreditRow.granted_at), col(CreditRow.source))
    for row in session.exec(rows):
        found[row.subscription_id].append(row)
    return found


def _read_coupons(session: Session, ids: Sequence[str]) -> dict[str, list[RedeemedCoupon]]:
    found: dict[str, list[RedeemedCoupon]] = defaultdict(list)
    rows = (
        select(Redemption, CouponRow)
        .join(CouponRow)
        .where(col(Redemption.subscription_id).in_(ids), col(Redemption.used_on).is_(None))
        .order_by(col(Redemption.redeemed_at))
    )
    for one, coupon in session.exec(rows):
        redeemed = RedeemedCoupon(coupons.terms(coupon), one.starts_at, one.ends_at, coupon.duration == "once")
        found[one.subscription_id].append(redeemed)
    return found


def _take_credits(book: Book, rows: Iterable[CreditRow]) -> None:
    for row in rows:
        if row.left_minor:
            book.credits.append(Credit(row.id, row.description, row.left_minor, row.fees_only))
        if row.charge_key is not None:
            before = book.billed.get(row.charge_key, NOTHING)
            book.billed[row.charge_key] = with_grant(before, row.granted_minor, row.released_minor)


def with_grant(before: Billed, granted_minor: int, released_minor: int) -> Billed:
    return replace(
        before,
        granted_minor=before.granted_minor + granted_minor,
        released_minor=before.released_minor + released_minor,
        grants=before.grants + 1,
    )


def _read_history(session: Session, ids: Sequence[str]) -> dict[str, tuple[int, list[int], set[tuple[str, datetime]]]]:
    """(how many invoices there are, the totals of the last periods, which periods have one) by subscription."""
    counts: dict[str, int] = defaultdict(int)
    totals: dict[str, list[int]] = defaultdict(list)
    closed: dict[str, set[tuple[str, datetime]]] = defaultdict(set)
    columns: tuple[Any, ...] = (
        Invoice.subscription_id, Invoice.sequence, Invoice.kind, Invoice.status, Invoice.total_minor,
        Invoice.period_start,
    )  # fmt: skip
    rows: Any = select(*columns).where(col(Invoice.subscription_id).in_(ids)).order_by(col(Invoice.sequence).desc())
    for id_, sequence, kind, status, total, period_start in session.exec(rows):
        counts[id_] = max(counts[id_], sequence)
        if status not in ("void", "draft"):
            closed[id_].add((kind, period_start))
        if kind == "period" and status not in ("draft", "held", "void") and len(totals[id_]) < HISTORY:
            totals[id_].append(total)
    return {id_: (counts[id_], totals[id_], closed[id_]) for id_ in ids}
