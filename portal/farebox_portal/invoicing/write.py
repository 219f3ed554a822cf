"""What a run found becomes rows, in as many statements as there are kinds of rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, insert, update
from sqlalchemy.orm.attributes import set_committed_value
from sqlmodel import Session, SQLModel, col

from farebox_portal.customers.tables import Customer
from farebox_portal.db import insert_into
from farebox_portal.invoicing import ledger, profiles
from farebox_portal.invoicing.document import canonical, document, sha256
from farebox_portal.invoicing.minimum import minimum_minor
from farebox_portal.invoicing.paper import Columns, Paper
from farebox_portal.invoicing.status import after
from farebox_portal.invoicing.tables import TOP_UP, CreditRow, Invoice, InvoiceLine, InvoiceNumber, LedgerEntry
from farebox_portal.invoicing.terms import Terms
from farebox_portal.pricing.money import currency
from farebox_portal.subscriptions.coupons import note_use
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.wallet.purchases import lot_of
from farebox_portal.wallet.tables import CreditLot

_NUMBERS = "invoice"


@dataclass
class Work:
    """What is to be written, in the order in which it came up."""

    now: datetime
    terms: Terms
    papers: dict[str, Paper] = field(default_factory=dict)
    issued: list[tuple[Paper, Customer]] = field(default_factory=list)
    credits: list[Columns] = field(default_factory=list)
    credits_left: dict[str, int] = field(default_factory=dict)
    lots_left: dict[str, int] = field(default_factory=dict)
    coupons_used: list[tuple[str, str, str]] = field(default_factory=list)  # (subscription, coupon, invoice)
    entries: list[ledger.Row] = field(default_factory=list)
    looked: list[Columns] = field(default_factory=list)

    def put(self, paper: Paper) -> None:
        paper.columns["updated_at"] = self.now
        self.papers[paper.columns["id"]] = paper

    def issue(self, paper: Paper, customer: Customer) -> None:
        """From now on it is owed, or paid already if nothing is left to pay."""
        columns = paper.columns
        columns |= {"issued_at": self.now, "due_at": self.now + self.terms.due_after}
        if columns["total_minor"] <= 0:
            columns |= {"status": after("issued", "settle"), "paid_at": self.now, "paid_minor": columns["total_minor"]}
        self.issued.append((paper, customer))

    def looked_at(self, row: Subscription, last: datetime | None, next_at: datetime | None) -> None:
        self.looked.append({"row": row.id, "to": last or row.invoiced_to, "due": next_at})
        # The statement below passes the session by; it must not take what it has for what is stored.
        set_committed_value(row, "invoiced_to", last or row.invoiced_to)
        set_committed_value(row, "invoice_due_at", next_at)


def write(session: Session, work: Work) -> None:
    """Everything, in the session's transaction. Numbers are taken last, as whoever takes one makes others wait."""
    _number(session, work)
    profile = profiles.default(session) if work.issued else None
    seller = profiles.seller(profile, work.terms.seller_name, work.terms.seller_address)
    for paper, customer in work.issued:
        _make_document(paper, customer, seller)
        work.entries += _issue_entries(session, paper, work)
    session.flush()
    _write_papers(session, list(work.papers.values()))
    _write_credits(session, work)
    for subscription_id, coupon_id, invoice_id in work.coupons_used:
        note_use(session, subscription_id, coupon_id, invoice_id)
    _insert(session, LedgerEntry, work.entries)
    _tell_owed(session, work)
    if work.looked:
        changed = update(Subscription).where(col(Subscription.id) == bindparam("row"))
        values: dict[str, Any] = {"invoiced_to": bindparam("to"), "invoice_due_at": bindparam("due")}
        session.connection().execute(changed.values(**values), work.looked)


def _tell_owed(session: Session, work: Work) -> None:
    """Who has just been asked for money has a payment pending. That changes no access, so nothing is published for it;
    what does, such as a try that failed, `standing.tell` says.
    """
    owing = [
        paper.columns["subscription_id"]
        for paper, _ in work.issued
        if paper.columns["status"] == "issued"
        and paper.columns["kind"] != TOP_UP
        and paper.columns["total_minor"] >= minimum_minor(currency(paper.columns["currency"]))
    ]
    settled = col(Subscription.payment_status).in_(("paid", "not_required"))
    if owing:
        changed = update(Subscription).where(col(Subscription.id).in_(owing), settled)
        session.exec(changed.values(payment_status="pending"))


def _number(session: Session, work: Work) -> None:
    if not work.issued:
        return
    count = len(work.issued)
    new = insert_into(session, InvoiceNumber).values(name=_NUMBERS, last=count)
    taken = new.on_conflict_do_update(
        index_elements=["name"],
        set_={"last": InvoiceNumber.__table__.c.last + count},  # type: ignore[attr-defined]
    ).returning(col(InvoiceNumber.last))
    last = session.connection().execute(taken).scalar_one()
    for number, (paper, _) in enumerate(work.issued, start=last - count + 1):
        paper.columns["number"] = f"{work.terms.prefix}{number:06d}"


def _make_document(paper: Paper, customer: Customer, seller: Mapping[str, str]) -> None:
    lines = [entry.columns for entry in paper.entries]
    text = canonical(document(paper.columns, lines, customer, seller))
    paper.columns |= {"document": text, "sha256": sha256(text)}


def _issue_entries(session: Session, paper: Paper, work: Work) -> list[ledger.Row]:
    columns = paper.columns
    occasion = ledger.Occasion(
        f"{columns['id']}:issue",
        columns["currency"],
        columns["customer_id"],
        columns["subscription_id"],
        columns["id"],
        work.now,
    )
    used = credits_used(paper).items()
    sold_as = "revenue"
    if columns["kind"] == TOP_UP:
        sold_as = ledger.credit_account(lot_of(session, columns["id"]))
    rows = ledger.issued(occasion, columns["total_minor"], columns["tax_minor"], used, sold_as)
    if columns["total_minor"] < 0:
        rows += _below_zero(paper, occasion, work)
    return rows


def _below_zero(paper: Paper, occasion: ledger.Occasion, work: Work) -> list[ledger.Row]:
    """What is owed to the customer becomes a credit, which pays whatever comes next."""
    columns = paper.columns
    work.credits.append(
        {
            "id": f"{columns['id']}-credit",
            "source": f"{columns['id']}:below-zero",
            "customer_id": columns["customer_id"],
            "subscription_id": columns["subscription_id"],
            "charge_key": None,
            "currency": columns["currency"],
            "description": f"Credit of invoice {columns['number']}",
            "fees_only": False,
            "granted_minor": -columns["total_minor"],
            "released_minor": 0,
            "left_minor": -columns["total_minor"],
            "from_sequence": columns["sequence"] + 1,
            "from_position": 0,
            "granted_at": work.now,
        }
    )
    owed = ledger.receivable(columns["customer_id"])
    return occasion.move(-columns["total_minor"], to=owed, from_=ledger.credit_account(f"{columns['id']}-credit"))


def credits_used(paper: Paper) -> dict[str, int]:
    """By credit, how much of it paid lines of this invoice."""
    used: dict[str, int] = {}
    for entry in paper.entries:
        for one in entry.columns["reductions"]:
            if one["kind"] == "credit" and one["source"]:
                used[one["source"]] = used.get(one["source"], 0) + one["amountMinor"]
    return used


def _write_papers(session: Session, papers: Sequence[Paper]) -> None:
    _insert(session, Invoice, [paper.columns for paper in papers if paper.is_new])
    _update(session, Invoice, [paper.columns for paper in papers if not paper.is_new])
    entries = [(paper, entry) for paper in papers for entry in paper.entries]
    _insert(session, InvoiceLine, [entry.columns for _, entry in entries if entry.is_new])
    _update(session, InvoiceLine, [entry.columns for paper, entry in entries if not entry.is_new])
    for paper, entry in entries:
        paper.is_new = entry.is_new = False


def _write_credits(session: Session, work: Work) -> None:
    for row in work.credits:
        row["left_minor"] = work.credits_left.pop(row["id"], row["left_minor"])
    _insert(session, CreditRow, work.credits)
    if work.credits_left:
        left = [{"row": id_, "left": left_minor} for id_, left_minor in work.credits_left.items()]
        changed = update(CreditRow).where(col(CreditRow.id) == bindparam("row"))
        session.connection().execute(changed.values(left_minor=bindparam("left")), left)
    if work.lots_left:
        left = [{"row": id_, "left": left_minor} for id_, left_minor in work.lots_left.items()]
        spent = col(CreditLot.value_minor) - col(CreditLot.lapsed_minor) - bindparam("left")
        taken = update(CreditLot).where(col(CreditLot.id) == bindparam("row")).values(spent_minor=spent)
        session.connection().execute(taken, left)


def _insert(session: Session, table: type[SQLModel], rows: Sequence[Columns]) -> None:
    if rows:
        session.connection().execute(insert(table), rows)


def _update(session: Session, table: Any, rows: Iterable[Columns]) -> None:
    """Whole rows by their id."""
    rows = [{**row, "row": row["id"]} for row in rows]
    if rows:
        values: dict[str, Any] = {name: bindparam(name) for name in table.model_fields if name != "id"}
        changed = update(table).where(col(table.id) == bindparam("row")).values(**values)
        session.connection().execute(changed, [{k: v for k, v in row.items() if k != "id"} for row in rows])
