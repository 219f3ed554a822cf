"""What an operator, or a payment, does to an invoice. Each step is one transaction under the customer's lock, stands in
the table of `status.py`, moves money in the ledger, and is written into the audit log.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col, select

from farebox_portal import audit
from farebox_portal.customers.tables import Customer
from farebox_portal.errors import Conflict, Invalid, NotFound
from farebox_portal.invoicing import ledger, profiles, standing
from farebox_portal.invoicing.books import Book, Shelf, read_books
from farebox_portal.invoicing.checks import MoneyFault, check_paper
from farebox_portal.invoicing.close import close_books, issue_draft, rate_books, take
from farebox_portal.invoicing.compose import NOTHING
from farebox_portal.invoicing.paper import Paper, read_paper
from farebox_portal.invoicing.status import after
from farebox_portal.invoicing.steps import Kind, Step
from farebox_portal.invoicing.tables import TOP_UP, CreditRow, Invoice, InvoiceLine
from farebox_portal.invoicing.terms import Terms
from farebox_portal.invoicing.write import Work, write
from farebox_portal.pricing.money import currency, decimal_text
from farebox_portal.pricing.period import Period
from farebox_portal.subscriptions.tables import AT_ONCE, Redemption, Subscription
from farebox_portal.wallet import purchases
from farebox_portal.wallet.purse import hold, restore


def get(session: Session, id_or_number: str) -> Invoice:
    """Raises NotFound."""
    found = session.get(Invoice, id_or_number)
    if found is None:
        found = session.exec(select(Invoice).where(Invoice.number == id_or_number)).first()
    if found is None:
        raise NotFound("There is no such invoice.", code="invoice_not_found")
    return found


def lines_of(session: Session, invoice: Invoice) -> Sequence[InvoiceLine]:
    """In order."""
    rows = select(InvoiceLine).where(InvoiceLine.invoice_id == invoice.id).order_by(col(InvoiceLine.position))
    return session.exec(rows).all()


def lock(session: Session, invoice: Invoice) -> None:
    """Nobody else invoices or pays for this customer until the transaction ends."""
    hold(session, invoice.customer_id)
    session.refresh(invoice)


def finalize(session: Session, invoice: Invoice, terms: Terms, now: datetime) -> Invoice:
    """Issue a draft at once, with what was used until now; or release one that was held, unless its sums are wrong.

    Raises Conflict when it was issued already; so do all steps for what their state does not allow.
    """
    lock(session, invoice)
    before = invoice.status
    after(before, "issue")
    work = Work(now, terms)
    if before == "draft":
        (book,) = _books(session, invoice, terms, now)
        step = _step_of(invoice, terms)
        rated = _rate(session, book)
        issue_draft(book, step, rated, work)
    else:
        _release(session, invoice, work)
    write(session, work)
    session.refresh(invoice)
    return stepped(session, "finalize", invoice, before, now)


def _release(session: Session, invoice: Invoice, work: Work) -> None:
    """What was held for review may have to wait for its tax next; what waits for that is issued without."""
    paper = read_paper(invoice, lines_of(session, invoice))
    _require_sums(paper)
    customer = session.get_one(Customer, invoice.customer_id)
    mode = profiles.tax_mode_of(session, customer, invoice.currency)
    if invoice.tax_status is None and mode != "off" and invoice.total_minor > 0:
        paper.columns |= {"tax_status": "pending", "reasons": ["tax_pending"]}
    else:
        if invoice.tax_status is not None:
            paper.columns |= {"tax_status": "left_out", "tax_fault": "by_operator"}
        paper.columns["status"] = after(invoice.status, "issue")
        work.issue(paper, customer)
    work.put(paper)


def pay(
    session: Session,
    invoice: Invoice,
    terms: Terms,
    now: datetime,
    reference: str | None = None,
    amount_minor: int | None = None,
) -> Invoice:
    """All that is outstanding was received, by bank transfer or by whatever else the provider `manual` means; or a
    part, and then it stays as it is until the rest comes. Raises Invalid for more than is outstanding.

    What a pause or a change of plan was to give back of its fees, and could not before they were paid, is given now.
    """
    lock(session, invoice)
    before = invoice.status
    paid = after(before, "pay")
    received_minor = invoice.outstanding_minor if amount_minor is None else amount_minor
    if received_minor > invoice.outstanding_minor:
        left = decimal_text(invoice.outstanding_minor, currency(invoice.currency))
        raise Invalid([{"pointer": "/amount", "detail": f"only {left} is outstanding"}])
    owed = ledger.receivable(invoice.customer_id)
    occasion = _occasion(invoice, f"pay@{invoice.paid_minor}", now)
    rows = occasion.move(received_minor, to="cash", from_=owed)
    if before == "uncollectible":
        rows += occasion.move(received_minor, to=owed, from_=_lost_as(session, invoice))
    ledger.put(session, rows)
    invoice.paid_minor += received_minor
    said = {"reference": reference} if reference else {}
    if invoice.outstanding_minor:
        part = {"amount": decimal_text(received_minor, currency(invoice.currency))}
        return stepped(session, "pay_part", invoice, before, now, said | part)
    invoice.status, invoice.paid_at = paid, now
    invoice.payment_fault, invoice.needs_action = None, False
    stepped(session, "pay", invoice, before, now, said)
    if invoice.kind == TOP_UP:
        purchases.deliver(session, invoice.id, invoice.total_minor - invoice.tax_minor, now)
    _give_back(session, invoice, terms, now)
    return invoice


def note_failure(session: Session, invoice: Invoice, now: datetime, detail: str, *, needs_action: bool = False) -> None:
    """A try to collect it definitely failed. The days of grace begin with the first one. `needs_action`: the payer has
    to confirm it on the provider's page.
    """
    lock(session, invoice)
    invoice.failed_at = invoice.failed_at or now
    invoice.payment_fault, invoice.needs_action = detail, needs_action
    stepped(session, "payment_failed", invoice, invoice.status, now, {"detail": detail})


def bill(session: Session, row: Subscription, terms: Terms, now: datetime) -> None:
    """What is due of this one subscription is invoiced now, and not when the run gets to it."""
    work = Work(now, terms)
    close_books(session, read_books(session, [row], terms, now, Shelf()), work)
    write(session, work)
    session.expire(row)


def mark_uncollectible(session: Session, invoice: Invoice, now: datetime) -> Invoice:
    """It was given up: the subscription has no access until it is paid, or voided."""
    lock(session, invoice)
    before = invoice.status
    invoice.status = after(before, "mark_uncollectible")
    owed = ledger.receivable(invoice.customer_id)
    occasion = _occasion(invoice, f"uncollectible@{invoice.credited_minor}", now)
    ledger.put(session, occasion.move(invoice.outstanding_minor, to=_lost_as(session, invoice), from_=owed))
    invoice.uncollectible_at = now
    return stepped(session, "mark_uncollectible", invoice, before, now)


def void(session: Session, invoice: Invoice, terms: Terms, now: datetime, *, rebill: bool = False) -> Invoice:
    """As if it had never been issued: credits that paid a part are there again, and nothing of it is owed.

    What was on it is waived: no other invoice charges it. With `rebill` another invoice with the same charges, rated
    anew, is made at once. Returns the voided one.
    """
    lock(session, invoice)
    before = invoice.status
    invoice.status = after(before, "void")
    if rebill and invoice.kind == TOP_UP:
        raise Conflict("Credit is not bought again by itself; order another top-up.", code="invoice_is_top_up")
    if rebill:
        _require_recent(session, invoice, terms, now)
    ledger.put(session, ledger.reversed_entries(session, invoice, _occasion(invoice, "void", now)))
    invoice.voided_at = now
    invoice.is_rebilled = rebill
    session.add(invoice)
    session.flush()
    _restore_credits(session, invoice, terms, now)
    _restore_coupon(session, invoice)
    stepped(session, "void", invoice, before, now, {"rebill": rebill})
    if rebill:
        _rebill(session, invoice, terms, now)
    return invoice


def mark_overdue(session: Session, now: datetime) -> int:
    """Those whose due date has passed; how many. The days of grace begin with it."""
    changed = (
        update(Invoice)
        .where(col(Invoice.status) == "issued", col(Invoice.due_at) <= now)
        .values(status=after("issued", "expire"), updated_at=now)
        .returning(col(Invoice.subscription_id))
    )
    owners = session.connection().execute(changed).scalars().all()
    session.expire_all()
    for subscription_id in sorted(set(owners)):
        standing.tell(session, subscription_id)
    return len(owners)


def _require_sums(paper: Paper) -> None:
    """Raises Conflict: nobody can release what does not add up."""
    try:
        check_paper(paper)
    except MoneyFault as fault:
        raise Conflict(f"Its sums do not add up, which is a fault of ours ({fault}).", code="invoice_held") from fault


# --- what they share -------------------------------------------------------------------------------------------------


def _books(session: Session, invoice: Invoice, terms: Terms, now: datetime) -> list[Book]:
    row = session.get_one(Subscription, invoice.subscription_id)
    return read_books(session, [row], terms, now, Shelf())


def _rate(session: Session, book: Book) -> Any:
    wanted = [(book.subscription.id, due) for due in book.dues if due.is_by_usage]
    return rate_books(session, wanted).get(book.subscription.id, {})


def _step_of(invoice: Invoice, terms: Terms) -> Step:
    """The step that made the invoice, as if the collection window were over."""
    kind: Kind = invoice.kind  # type: ignore[assignment]  # that is where it came from
    with_usage = kind in ("period", "final", "late")
    period = Period(invoice.period_start, invoice.period_end)
    return Step(invoice.closes_at + terms.window, invoice.closes_at, kind, with_usage, False, period)


def _require_recent(session: Session, invoice: Invoice, terms: Terms, now: datetime) -> None:
    (book,) = _books(session, invoice, terms, now)
    known = {due.key for due in book.dues}
    if any(line.charge_key not in known for line in lines_of(session, invoice)):
        raise Conflict("Its charges are too old to be made anew.", code="invoice_too_old")


def _rebill(session: Session, invoice: Invoice, terms: Terms, now: datetime) -> None:
    (book,) = _books(session, invoice, terms, now)
    work = Work(now, terms)
    take(book, _step_of(invoice, terms), _rate(session, book), work)
    write(session, work)


def _give_back(session: Session, invoice: Invoice, terms: Terms, now: datetime) -> None:
    """The run of this one subscription, looking back as far as the invoice does."""
    started = [line.rated_start for line in lines_of(session, invoice) if line.kind == "fee"]
    row = session.get_one(Subscription, invoice.subscription_id)
    if not started or row.invoiced_to is None:
        return
    row.invoice_due_at = AT_ONCE
    work = Work(now, terms)
    close_books(session, read_books(session, [row], terms, now, Shelf(), min(started)), work)
    write(session, work)


def _restore_credits(session: Session, invoice: Invoice, terms: Terms, now: datetime) -> None:
    """Less what was given back of it since, as it had been paid by these credits."""
    (book,) = _books(session, invoice, terms, now)
    used: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for line in lines_of(session, invoice):
        for one in line.reductions:
            if one["kind"] == "credit" and one["source"]:
                before = book.billed.get(line.charge_key, NOTHING)
                gone = max(0, before.granted_minor - before.settled_minor - spent[line.charge_key])
                kept = min(gone, one["amountMinor"])
                spent[line.charge_key] += kept
                used[one["source"]] += one["amountMinor"] - kept
    for credit_id, amount_minor in used.items():
        credit = session.get(CreditRow, credit_id)
        if credit is not None:
            credit.left_minor += amount_minor
            session.add(credit)
        else:
            restore(session, credit_id, amount_minor, now)
    session.flush()


def _restore_coupon(session: Session, invoice: Invoice) -> None:
    """One that this invoice used up is good for another one, unless there is a new one in its place."""
    ours = select(Redemption).where(Redemption.subscription_id == invoice.subscription_id)
    used = session.exec(ours.where(Redemption.used_on == invoice.id)).first()
    if used is not None and session.exec(ours.where(col(Redemption.is_standing))).first() is None:
        used.used_on, used.is_standing = None, True
        session.add(used)
        session.flush()


def _lost_as(session: Session, invoice: Invoice) -> str:
    """The account that bears what is not paid. Credit that was not paid for never came to be: nothing is lost."""
    return ledger.credit_account(purchases.lot_of(session, invoice.id)) if invoice.kind == TOP_UP else "loss"


def _occasion(invoice: Invoice, what: str, now: datetime) -> ledger.Occasion:
    return ledger.Occasion(
        f"{invoice.id}:{what}", invoice.currency, invoice.customer_id, invoice.subscription_id, invoice.id, now
    )


def stepped(
    session: Session, verb: str, invoice: Invoice, before: str, now: datetime, more: dict[str, Any] | None = None
) -> Invoice:
    """What follows each step: access may be another, and the audit log has it."""
    invoice.updated_at = now
    session.add(invoice)
    session.flush()
    ledger.check_owed(session, invoice)
    standing.tell(session, invoice.subscription_id)
    _note(session, verb, invoice, before, now, more)
    return invoice


def _note(
    session: Session, verb: str, invoice: Invoice, before: str, now: datetime, more: dict[str, Any] | None = None
) -> None:
    after_ = {"status": invoice.status, "number": invoice.number} | (more or {})
    audit.record(session, f"invoice.{verb}", "invoice", invoice.id, now, before={"status": before}, after=after_)
