"""The invoicing run: everything that is due, for as many subscriptions as there are.

    find those that are due -> lock their customers -> read all about them -> take each step -> write everything at once

Each transaction takes a few hundred subscriptions. Two runs at the same time share them out: who finds a customer
locked goes on to the next one, and who comes later finds that nothing is due any more. If all of that failed, the
identity of a line is unique, and the second transaction with it is undone.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import structlog
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from farebox_portal.catalog.tables import Feature
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.ids import new_id
from farebox_portal.invoicing import ledger
from farebox_portal.invoicing.adjust import Adjustments, adjusted
from farebox_portal.invoicing.books import Book, Shelf, read_books, settled_minor, with_grant, with_line
from farebox_portal.invoicing.charges import Due
from farebox_portal.invoicing.checks import MoneyFault, check_credits, check_moves, check_paper
from farebox_portal.invoicing.compose import NOTHING, Billed, Composed, Grant, compose
from farebox_portal.invoicing.fees import fees
from farebox_portal.invoicing.minimum import minimum_minor
from farebox_portal.invoicing.paper import Columns, Paper, new_paper, put_line
from farebox_portal.invoicing.rated import Rated, rate_all
from farebox_portal.invoicing.sanity import HISTORY, doubts
from farebox_portal.invoicing.status import after
from farebox_portal.invoicing.steps import Step
from farebox_portal.invoicing.terms import Terms
from farebox_portal.invoicing.write import Work, credits_used, write
from farebox_portal.pricing.coupons import Coupon, is_reduced
from farebox_portal.pricing.money import currency
from farebox_portal.pricing.settle import Bill, Credit
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.testclock import read_timeline
from farebox_portal.usage.access import read_features

log = structlog.get_logger(__name__)

BATCH = 400
"""Subscriptions in one transaction: enough that statements are few, few enough that a customer is not locked long."""

SLICE = 50


def close_due(engine: Engine, now: datetime, terms: Terms) -> int:
    """Everything that is due, in transactions of its own; how many invoices were made or added to."""
    made = 0
    shelf = Shelf()
    while True:
        with transaction(engine) as session:
            looked_at, written = close_some(session, now, terms, shelf)
        made += written
        if not looked_at:
            return made


def close_all(session: Session, now: datetime, terms: Terms) -> int:
    """The same in the transaction of the session."""
    made = 0
    shelf = Shelf()
    while True:
        looked_at, written = close_some(session, now, terms, shelf)
        made += written
        if not looked_at:
            return made


def close_slice(engine: Engine, now: datetime, terms: Terms) -> bool:
    """Some of what is due, in a moment, as other jobs wait; whether there may be more."""
    with transaction(engine, read_only=True) as session:
        due = select(Subscription.id).where(col(Subscription.invoice_due_at) <= now).limit(1)
        if session.exec(due).first() is None:
            return False
    with transaction(engine) as session:
        looked_at, _ = close_some(session, now, terms, Shelf(), SLICE)
    return looked_at > 0


def close_some(session: Session, now: datetime, terms: Terms, shelf: Shelf, limit: int = BATCH) -> tuple[int, int]:
    """(how many subscriptions were looked at, how many invoices were made or added to)."""
    rows = _lock_due(session, now, limit)
    if not rows:
        return 0, 0
    books = read_books(session, rows, terms, now, shelf)
    work = Work(now, terms)
    close_books(session, books, work)
    write(session, work)
    return len(rows), len(work.papers)


def close_books(session: Session, books: Sequence[Book], work: Work) -> None:
    """Take the steps of each, and note in `work` what there is to write."""
    rated = _rate(session, books)
    for book in books:
        for step in book.steps:
            take(book, step, rated.get(book.subscription.id, {}), work)
        last = book.steps[-1].at if book.steps else None
        work.looked_at(book.subscription, last, book.next_at)


def take(book: Book, step: Step, rated: Mapping[str, Rated], work: Work) -> None:
    """One step: what is due goes onto the draft, and the draft is issued unless more is still to come."""
    composed = _compose(book, step, rated)
    for grant in composed.grants:
        _grant(book, step, grant, work)
    if composed.lines and (book.draft is not None or any(new.line.amount_minor for new in composed.lines)):
        _add(book, step, composed, work)
    if book.draft is not None and not step.waits:
        _issue(book, book.draft, step, work)


def issue_draft(book: Book, step: Step, rated: Mapping[str, Rated], work: Work) -> None:
    """An operator does not wait for the window, nor for the minimum: the draft, with what is there now, is issued."""
    composed = _compose(book, step, rated)
    for grant in composed.grants:
        _grant(book, step, grant, work)
    if composed.lines:
        _add(book, step, composed, work)
    assert book.draft is not None
    _issue(book, book.draft, step, work, whatever_it_is=True)


def rate_books(session: Session, wanted: Iterable[tuple[str, Due]]) -> dict[str, dict[str, Rated]]:
    """By subscription and charge, from the ledger as it is now."""
    pairs = list(wanted)
    features: Mapping[str, Feature] = read_features(session)
    rated = rate_all(session, pairs, features, read_timeline(session))
    found: dict[str, dict[str, Rated]] = {}
    for (subscription_id, due), one in zip(pairs, rated, strict=True):
        found.setdefault(subscription_id, {})[due.key] = one
    return found


def _lock_due(session: Session, now: datetime, limit: int) -> list[Subscription]:
    due = (col(Subscription.invoice_due_at) <= now,)
    found = session.exec(
        select(Subscription.id, Subscription.customer_id)
        .where(*due)
        .order_by(col(Subscription.customer_id))
        .limit(limit)
    ).all()
    if not found:
        return []
    owners = sorted({customer_id for _, customer_id in found})
    lock = select(Customer.id).where(col(Customer.id).in_(owners)).order_by(col(Customer.id))
    ours = session.exec(lock.with_for_update(skip_locked=True)).all()
    rows = select(Subscription).where(*due, col(Subscription.id).in_([id_ for id_, _ in found]))
    rows = rows.where(col(Subscription.customer_id).in_(ours)).execution_options(populate_existing=True)
    return list(session.exec(rows))


def _rate(session: Session, books: Sequence[Book]) -> dict[str, dict[str, Rated]]:
    wanted = []
    for book in books:
        last = max((step.closes_at for step in book.steps if step.with_usage), default=None)
        if last is not None:
            wanted += [(book.subscription.id, due) for due in book.dues if due.is_by_usage and due.at <= last]
    return rate_books(session, wanted)


def _compose(book: Book, step: Step, rated: Mapping[str, Rated]) -> Composed:
    used: list[Rated] = []
    if step.with_usage:
        used = [rated[due.key] for due in book.dues if due.is_by_usage and due.at <= step.closes_at]
    of = currency(book.currency)
    gone = [key for key in book.billed if key not in book.known and _is_fee(book.billed[key])]
    return compose(step, fees(book.dues, book.life, step.closes_at), used, gone, book.billed, of)


def _is_fee(billed: Billed) -> bool:
    return bool(billed.lines) and billed.lines[0].kind == "fee"


def _grant(book: Book, step: Step, grant: Grant, work: Work) -> None:
    before = book.billed.get(grant.charge_key, NOTHING)
    book.billed[grant.charge_key] = with_grant(before, grant.amount_minor, grant.released_minor)
    row: Columns = {
        "id": new_id(work.now),
        "source": f"{book.subscription.id}/{grant.charge_key}#{grant.number}",
        "customer_id": book.customer.id,
        "subscription_id": book.subscription.id,
        "charge_key": grant.charge_key,
        "currency": book.currency,
        "description": grant.description,
        "fees_only": True,
        "granted_minor": grant.amount_minor,
        "released_minor": grant.released_minor,
        "left_minor": grant.amount_minor,
        "from_sequence": book.sequence + (book.draft is None),
        "from_position": 0 if book.draft is None else len(book.draft.entries),
        "granted_at": work.now,
    }
    work.credits.append(row)
    book.credits.append(Credit(row["id"], grant.description, grant.amount_minor, fees_only=True))
    occasion = ledger.Occasion(
        f"{row['id']}:grant", book.currency, book.customer.id, book.subscription.id, None, work.now
    )
    work.entries += ledger.given_back(occasion, row["id"], grant.amount_minor)


def _add(book: Book, step: Step, composed: Composed, work: Work) -> None:
    is_first = book.draft is None
    if book.draft is None:
        book.sequence += 1
        book.draft = new_paper(
            id_=new_id(work.now),
            subscription_id=book.subscription.id,
            customer_id=book.customer.id,
            sequence=book.sequence,
            currency=book.currency,
            now=work.now,
        )
    draft = book.draft
    at = len(draft.entries)
    draft.add(composed.lines)
    if is_first or step.kind not in ("start", "change"):
        _name(book, draft, step)
    draft.columns["closes_at"] = step.closes_at
    for entry in draft.entries[at:]:
        key = entry.columns["charge_key"]
        book.billed[key] = with_line(book.billed.get(key, NOTHING), entry.columns, "draft")
    _sum_up(draft, sum(entry.columns["amount_minor"] for entry in draft.entries), 0, 0)
    work.put(draft)


def _name(book: Book, draft: Paper, step: Step) -> None:
    """A period has one invoice. What comes when that was issued already, as an operator did not wait, is late."""
    kind = "late" if (step.kind, step.period.start) in book.closed else step.kind
    draft.columns |= {"kind": kind, "period_start": step.period.start, "period_end": step.period.end}


def _issue(book: Book, draft: Paper, step: Step, work: Work, *, whatever_it_is: bool = False) -> None:
    of = currency(book.currency)
    coupon = book.coupon_at(draft.columns["closes_at"])
    by = Adjustments(None if coupon is None else coupon.terms)

    def applies(to: Coupon) -> list[bool]:
        rows = [entry.columns for entry in draft.entries]
        return [to.applies_to(book.plan_keys[row["plan_id"]], row["feature_key"]) for row in rows]

    credits_ = [*book.credits, *book.purse.credits]
    bill = adjusted([entry.line for entry in draft.entries], credits_, by, applies, of)
    is_last = step.kind in ("final", "late")
    if is_last:  # also where nothing is added any more to what was carried until now
        _name(book, draft, step)
    is_small = 0 < bill.total_minor < minimum_minor(of)
    if is_small and work.terms.carries_small and not is_last and not whatever_it_is:
        return
    for entry, line in zip(draft.entries, bill.lines, strict=True):
        put_line(entry.columns, line)
    on_top = bill.total_minor - sum(line.amount_minor for line in bill.lines)
    _sum_up(draft, bill.total_minor - on_top, bill.tax_minor, bill.total_minor)
    _use_credits(book, draft, bill, work)
    if coupon is not None and coupon.is_once and is_reduced(bill.lines):
        work.coupons_used.append((book.subscription.id, coupon.terms.id, draft.columns["id"]))
        book.coupons.remove(coupon)
    reasons = _faults(book, draft) if whatever_it_is else [*_doubts(book, draft), *_faults(book, draft)]
    is_doubted = bool(reasons)
    if not is_doubted and book.tax_mode != "off" and bill.total_minor > 0:  # see tax.py
        draft.columns["tax_status"] = "pending"
        reasons = ["tax_pending"]
    draft.columns["reasons"] = reasons
    draft.columns["status"] = after("draft", "hold" if reasons else "issue")
    book.closed.add((draft.columns["kind"], draft.columns["period_start"]))
    if not is_doubted and draft.columns["kind"] == "period":
        book.history = [bill.total_minor, *book.history][:HISTORY]
    if not reasons:
        work.issue(draft, book.customer)
    work.put(draft)
    _note_settled(book, draft)
    book.draft = None


def _sum_up(paper: Paper, subtotal_minor: int, tax_minor: int, total_minor: int) -> None:
    paper.columns |= {"subtotal_minor": subtotal_minor, "tax_minor": tax_minor, "total_minor": total_minor}


def _doubts(book: Book, draft: Paper) -> list[str]:
    currencies = {due.plan.currency for due in book.dues} | {draft.columns["currency"]}
    least = minimum_minor(currency(book.currency))
    return doubts(draft.columns["total_minor"], currencies, book.history, least)


def _faults(book: Book, draft: Paper) -> list[str]:
    """The reason for which nobody can release it, either."""
    columns = draft.columns
    occasion = ledger.Occasion(
        "", columns["currency"], book.customer.id, book.subscription.id, columns["id"], columns["created_at"]
    )
    moves = ledger.issued(occasion, columns["total_minor"], columns["tax_minor"], credits_used(draft).items())
    try:
        check_paper(draft)
        check_credits(credit.amount_minor for credit in (*book.credits, *book.purse.credits))
        check_moves(moves, ledger.receivable(book.customer.id), columns["total_minor"])
    except MoneyFault as fault:
        log.error("money_fault", invoice=columns["id"], rule=str(fault))
        return ["arithmetic"]
    return []


def _use_credits(book: Book, draft: Paper, bill: Bill, work: Work) -> None:
    """First what was given back, then what was paid ahead."""
    own = len(book.credits)
    for credits_, left, noted in (
        (book.credits, bill.credits_left[:own], work.credits_left),
        (book.purse.credits, bill.credits_left[own:], work.lots_left),
    ):
        changed = [after for before, after in zip(credits_, left, strict=True) if before != after]
        noted |= {credit.id: credit.amount_minor for credit in changed}
        credits_[:] = [credit for credit in left if credit.amount_minor]


def _note_settled(book: Book, paper: Paper) -> None:
    """What credits paid of its lines: a later change of plan may give that back."""
    status = "paid" if paper.columns["status"] == "paid" else "issued"
    for entry in paper.entries:
        key = entry.columns["charge_key"]
        before = book.billed[key]
        settled = before.settled_minor + settled_minor(entry.columns, status)
        coupon = sum(one["amountMinor"] for one in entry.columns["reductions"] if one["kind"] == "coupon")
        book.billed[key] = type(before)(
            before.lines,
            before.coupon_minor + coupon,
            settled,
            before.granted_minor,
            before.released_minor,
            before.grants,
            before.revisions,
        )
