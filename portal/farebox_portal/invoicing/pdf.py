"""An invoice as PDF, A4. The same facts give the same bytes: it has no date of its own and no random id."""

from io import BytesIO
from xml.sax.saxutils import escape

from reportlab.lib.colors import HexColor  # type: ignore[import-untyped]
from reportlab.lib.pagesizes import A4  # type: ignore[import-untyped]
from reportlab.lib.styles import ParagraphStyle  # type: ignore[import-untyped]
from reportlab.lib.units import mm  # type: ignore[import-untyped]
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle  # type: ignore[import-untyped]
from sqlmodel import Session

from farebox_portal.invoicing.tables import Invoice
from farebox_portal.invoicing.terms import Terms
from farebox_portal.invoicing.words import InvoiceInWords, LineInWords, in_words

_QUIET, _RULE = HexColor("#5a626b"), HexColor("#d5dae0")
_BODY = ParagraphStyle("body", fontName="Helvetica", fontSize=9.5, leading=13)
_RIGHT = ParagraphStyle("right", _BODY, alignment=2)
_HEAD = ParagraphStyle("head", _BODY, fontName="Helvetica-Bold", fontSize=16, leading=20)
_BOLD_RIGHT = ParagraphStyle("due", _RIGHT, fontName="Helvetica-Bold", fontSize=11, leading=15)
_WIDTHS = (88 * mm, 26 * mm, 28 * mm, 28 * mm)


def pdf(session: Session, invoice: Invoice, terms: Terms, *, compressed: bool = True) -> bytes:
    """`compressed` False leaves the text readable in the bytes."""
    words = in_words(session, invoice, terms)
    out = BytesIO()
    sheet = SimpleDocTemplate(
        out,
        pagesize=A4,
        margins=20 * mm,
        title=words.title,
        author=words.seller[0],
        pageCompression=int(compressed),
        invariant=1,
    )
    sheet.build(_story(words))
    return out.getvalue()


def _story(words: InvoiceInWords) -> list[Flowable]:
    head = f"{_text(words.title)}<br/><font size=9.5 color='{_QUIET.hexval()}'>{_text(words.status_text)}</font>"
    facts = "<br/>".join(f"{_text(name)}: {_text(value)}" for name, value in words.facts)
    top = [
        [Paragraph(head, _HEAD), Paragraph(_lines(words.seller), _RIGHT)],
        [Paragraph(f"Billed to<br/>{_lines(words.customer)}", _BODY), Paragraph(facts, _RIGHT)],
    ]
    aligned = TableStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), ("BOTTOMPADDING", (0, 0), (-1, 0), 8 * mm)])
    story: list[Flowable] = [Table(top, colWidths=(95 * mm, 75 * mm), style=aligned), Spacer(1, 8 * mm)]
    story += [_table(words), Spacer(1, 6 * mm)]
    return story + [Paragraph(_text(note), _BODY) for note in words.notes]


def _table(words: InvoiceInWords) -> Table:
    names = ("Description", "Quantity", "Unit price", "Amount")
    rows = [[Paragraph(name, _RIGHT if place else _BODY) for place, name in enumerate(names)]]
    rows += [_row(line) for line in words.lines]
    blank = Paragraph("", _BODY)
    rows += [
        [blank, blank, Paragraph(_text(name), _RIGHT), Paragraph(_text(sum_), _RIGHT)] for name, sum_ in words.sums
    ]
    rows.append([blank, blank, *(Paragraph(_text(part), _BOLD_RIGHT) for part in words.due)])
    last = len(words.lines)
    style = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEBELOW", (0, 0), (-1, last), 0.5, _RULE),
        ("TEXTCOLOR", (0, 0), (-1, 0), _QUIET),
    ]
    return Table(rows, colWidths=_WIDTHS, style=TableStyle(style), repeatRows=1)


def _row(line: LineInWords) -> list[Paragraph]:
    notes = "".join(
        f"<br/><font size=8 color='{_QUIET.hexval()}'>{_text(note)}</font>" for note in (line.period, *line.notes)
    )
    numbers = (line.quantity, line.unit_amount, line.amount)
    return [Paragraph(_text(line.description) + notes, _BODY), *(Paragraph(_text(one), _RIGHT) for one in numbers)]


def _lines(parts: tuple[str, ...]) -> str:
    return "<br/>".join(_text(part) for part in parts)


def _text(text: str) -> str:
    return escape(text)
