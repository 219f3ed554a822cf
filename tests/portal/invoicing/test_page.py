"""The page and the PDF: what stands on them, and that nothing a customer wrote is taken for markup."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from sqlmodel import Session

from builders.invoices import DAY, HOUR, TERMS
from builders.quotes import Use
from builders.subscriptions import APRIL, an_order
from farebox_portal.customers.tables import Customer
from farebox_portal.invoicing import actions, credit_notes
from farebox_portal.invoicing.credit_notes import CreditNoteInput
from farebox_portal.invoicing.page import page
from farebox_portal.invoicing.pdf import pdf
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.invoicing.terms import Terms
from farebox_portal.invoicing.words import money, period, price

from .conftest import Run

pytestmark = pytest.mark.usefixtures("shelf")

MAY = datetime(2026, 5, 1, tzinfo=UTC)
SELLER = Terms(seller_name="Weather & Sons", seller_address="1 Rain Street\\nCloud City")


class Outline(HTMLParser):
    """Open tags, and that each is closed."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def outline(text: str) -> Outline:
    parsed = Outline()
    parsed.feed(text)
    parsed.close()
    assert parsed.open == []
    return parsed


@pytest.fixture
def invoice(session: Session, use: Use, run: Run) -> Invoice:
    row = an_order(session, "pro")
    customer = session.get_one(Customer, row.customer_id)
    customer.name = "<b>Acme</b> & Co {{ 7 * 7 }}"
    session.add(customer)
    use(row, APRIL, 1250)
    return run(MAY + HOUR, SELLER)[-1]


def test_the_page_has_the_whole_invoice_in_a_table_that_a_screen_reader_can_read(
    session: Session, invoice: Invoice
) -> None:
    found = outline(page(session, invoice, SELLER))
    words = re.sub(r"\s+", " ", found.text)
    for expected in (
        "Invoice INV-000002", "Open", "Weather & Sons", "Cloud City", "<b>Acme</b> & Co {{ 7 * 7 }}",
        "1 Apr 2026 – 30 Apr 2026", "1 May 2026 – 31 May 2026", "$29.00", "250", "$0.01", "$2.50", "$31.50",
    ):  # fmt: skip
        assert expected in words
    tags = [tag for tag, _ in found.seen]
    assert "b" not in tags
    assert "script" not in tags
    assert [tags.count(tag) for tag in ("h1", "main", "caption", "thead")] == [1, 1, 1, 1]
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in found.seen if tag == "th")
    assert ("html", {"lang": "en"}) in found.seen
    assert not any("src" in attributes or "href" in attributes for _, attributes in found.seen)


def test_the_page_is_light_dark_and_paper(session: Session, invoice: Invoice) -> None:
    text = page(session, invoice, SELLER)
    for rule in ("prefers-color-scheme: dark", "@media print", 'content="light dark"', "max-width: 40rem"):
        assert rule in text


def test_what_was_paid_and_taken_back_stands_under_the_lines(session: Session, invoice: Invoice) -> None:
    actions.pay(session, invoice, TERMS, MAY + DAY)
    wanted = CreditNoteInput(amount="1.50", reason="An outage")
    credit_notes.give(session, invoice, wanted, MAY + DAY)
    words = outline(page(session, invoice, SELLER)).text
    for expected in ("Paid", "Taken back", "-$1.50", "INV-000002-CN1: $1.50 taken back. An outage", "$0.00"):
        assert expected in words


def test_a_draft_has_no_number_and_says_that_it_is_one(session: Session, run: Run) -> None:
    an_order(session, "pro", customer="new")
    draft = run(MAY)[-1]
    words = outline(page(session, draft, TERMS)).text
    assert "Draft invoice" in words
    assert "usage is still coming in" in words


def test_who_sold_and_bought_it_stays_as_it_was_issued(session: Session, invoice: Invoice) -> None:
    before = page(session, invoice, SELLER)
    customer = session.get_one(Customer, invoice.customer_id)
    customer.name = "Somebody else"
    session.add(customer)
    assert page(session, invoice, TERMS) == before


def test_the_pdf_says_the_same_and_is_the_same_to_the_byte(session: Session, invoice: Invoice) -> None:
    found = pdf(session, invoice, SELLER, compressed=False)
    assert found.startswith(b"%PDF-")
    assert found.rstrip().endswith(b"%%EOF")
    for expected in (b"INV-000002", b"Weather & Sons", b"(Acme) Tj", b"> & Co {{ 7 * 7 }}", b"$31.50", b"over 1,000"):
        assert expected in found, expected
    assert pdf(session, invoice, SELLER) == pdf(session, invoice, SELLER)
    assert len(pdf(session, invoice, SELLER)) < len(found)


@pytest.mark.parametrize(
    ("amount_minor", "code", "written"),
    [
        (870, "USD", "$8.70"),
        (-5, "USD", "-$0.05"),
        (1234567, "EUR", "€12,345.67"),
        (500, "JPY", "¥500"),
        (12340, "KWD", "KWD12.340"),
    ],
)
def test_money_is_written_as_the_currency_is(amount_minor: int, code: str, written: str) -> None:
    assert money(amount_minor, code).replace("\xa0", " ") == written


def test_a_unit_price_keeps_its_digits() -> None:
    from decimal import Decimal

    assert [price(Decimal(text), "USD") for text in ("0.0008", "1", "0.00000125")] == [
        "$0.0008",
        "$1.00",
        "$0.00000125",
    ]
    assert price(Decimal("3"), "JPY") == "¥3"


def test_a_period_is_told_by_its_last_day() -> None:
    assert period(APRIL, MAY) == "1 Apr 2026 – 30 Apr 2026"
    assert period(APRIL, APRIL + HOUR) == "1 Apr 2026"
