"""An invoice in the browser and on paper: one page of HTML, without a script and without anything from elsewhere."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from sqlmodel import Session

from farebox_portal.invoicing.tables import Invoice
from farebox_portal.invoicing.terms import Terms
from farebox_portal.invoicing.words import in_words


def page(session: Session, invoice: Invoice, terms: Terms) -> str:
    return _template().render(invoice=in_words(session, invoice, terms))


@cache
def _template() -> Template:
    loader = PackageLoader("farebox_portal.invoicing")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template("invoice.html")
