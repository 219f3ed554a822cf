"""Lists, a page at a time: `?page=1&pageSize=100` → `{items, page, pageSize, totalCount}`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Query
from sqlalchemy import func
from sqlmodel import Session, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.documents import Output

PAGE_SIZE_MAX = 1000
Row = TypeVar("Row")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Page:
    """Which part of a list is asked for; pages count from 1."""

    number: int = 1
    size: int = 100


class Listing(Output, Generic[Item]):
    items: list[Item]
    page: int
    page_size: int
    total_count: int


def page(
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    page_size: Annotated[int, Query(alias="pageSize", ge=1, le=PAGE_SIZE_MAX)] = 100,
) -> Page:
    return Page(page, page_size)


PageDep = Annotated[Page, Depends(page)]


def listing(session: Session, rows: SelectOfScalar[Row], page: Page, show: Callable[[Row], Item]) -> Listing[Item]:
    """One page of `rows`. The caller orders them by something unique, or pages would overlap."""
    return listing_together(session, rows, page, lambda found: [show(row) for row in found])


def listing_together(
    session: Session, rows: SelectOfScalar[Row], page: Page, show: Callable[[Sequence[Row]], list[Item]]
) -> Listing[Item]:
    """The same where what is shown of a page's rows is read in one go."""
    total = session.exec(select(func.count()).select_from(rows.order_by(None).subquery())).one()
    found = session.exec(rows.offset((page.number - 1) * page.size).limit(page.size)).all()
    return Listing(items=show(found), page=page.number, page_size=page.size, total_count=total)


def slice_page(items: Sequence[Item], page: Page) -> Listing[Item]:
    """One page of a list that is short enough to be read whole."""
    first = (page.number - 1) * page.size
    found = list(items[first : first + page.size])
    return Listing(items=found, page=page.number, page_size=page.size, total_count=len(items))
