"""Lives, usage and payments in any order, closed by three runs at once after each step: see `builders.whole_books`."""

from builders.whole_books import Books, a_shop_with_shelves, run


def test_whatever_happens_the_books_are_right() -> None:
    with a_shop_with_shelves() as shop:
        Books.shop = shop
        run(Books, examples=100, steps=12)
