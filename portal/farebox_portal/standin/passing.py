"""What happens because time passes: sessions end, drafts become final, payments are tried again."""

from farebox_portal.standin import checkout, invoice_life
from farebox_portal.standin.books import Books


def pass_time(books: Books) -> None:
    checkout.advance(books)
    invoice_life.advance(books)
