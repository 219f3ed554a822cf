"""What is sold in versions, plans and add-ons. A version is a draft, then active and immutable, then archived.

    POST of a key             a draft: version 1, or the next version beside the one that is on sale
    PUT, PATCH, DELETE        of a draft only
    publish                   on sale from now on; the version that was on sale until now is archived by it
    archive                   not sold any more; who has it keeps it

So at most one version of a key is on sale, and `effectiveFrom` and `effectiveTo` of its versions never overlap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog.tables import Addon, Plan
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound
from farebox_portal.ids import new_id

Status = Literal["draft", "active", "archived"]
Row = TypeVar("Row", Plan, Addon)


@dataclass(frozen=True, slots=True)
class Versions(Generic[Row]):
    """The life of one kind's versions.

    `noun` names it in sentences, `code` in problem codes. `faults`: everything wrong with a document. `columns`: those
    of a document without faults. `document_of`: the document as it was accepted.
    """

    table: type[Row]
    noun: str
    code: str
    faults: Callable[[Session, Any], list[Fault]]
    columns: Callable[[dict[str, Any]], dict[str, Any]]
    document_of: Callable[[Row], dict[str, Any]]

    # --- from draft to archive ---------------------------------------------------------------------------------------

    def create(self, session: Session, document: dict[str, Any], now: datetime) -> Row:
        """A draft: version 1 of a new key, or the next of one there is. Raises Invalid with every fault, Conflict."""
        columns = self._checked(session, document)
        latest = session.exec(self._newest_first(columns["key"])).first()
        if latest is not None and latest.status == "draft":
            raise Conflict(
                f"Version {latest.version} of '{latest.key}' is still a draft ({latest.id}); replace or publish that.",
                code=f"{self.code}_draft_exists",
            )
        if latest is not None and latest.currency != columns["currency"]:
            raise Invalid([self._currency_fixed])
        # Also the numbers of deleted drafts stay free to take again: nobody ever bought one.
        version = 1 if latest is None else latest.version + 1
        row = self.table(id=new_id(now), version=version, created_at=now, updated_at=now, **columns)
        session.add(row)
        return row

    def replace(self, session: Session, row: Row, document: dict[str, Any], now: datetime) -> Row:
        """Put another document in a draft's place. Raises Conflict when it was published, Invalid with every fault."""
        self.require_draft(row)
        columns = self._checked(session, document)
        fixed: list[Fault] = []
        if columns["key"] != row.key:
            fixed.append({"pointer": "/key", "detail": "cannot change"})
        if columns["currency"] != row.currency:
            fixed.append(self._currency_fixed)
        if fixed:
            raise Invalid(fixed)
        for name, value in columns.items():
            setattr(row, name, value)
        row.updated_at = now
        session.add(row)
        return row

    def change(self, session: Session, row: Row, changes: dict[str, Any], now: datetime) -> Row:
        """Change parts of a draft: what is left out stays, null clears, a list or an object is replaced as a whole."""
        self.require_draft(row)
        whole = {name: value for name, value in (self.document_of(row) | changes).items() if value is not None}
        return self.replace(session, row, whole, now)

    def publish(self, session: Session, row: Row, now: datetime) -> Row:
        """From now on it is what is sold under its key, and cannot change. Does nothing to an active one.

        Raises Conflict for an archived one, Invalid when it has become unsound since it was written.
        """
        if row.status == "archived":
            detail = f"An archived {self.noun} cannot be published; make a new version of it."
            raise Conflict(detail, code=f"{self.code}_archived")
        if row.status == "draft":
            if found := self.unsound(session, row):
                raise Invalid(found)
            for predecessor in session.exec(self.every(key=row.key, status="active")):
                self.archive(session, predecessor, now)
            row.published_at = row.updated_at = now
            session.add(row)
        return row

    def archive(self, session: Session, row: Row, now: datetime) -> Row:
        """Not sold any more; who has it keeps it. Does nothing to an archived one. Raises Conflict for a draft."""
        if row.status == "draft":
            raise Conflict("A draft is not archived but deleted.", code=f"{self.code}_is_draft")
        if row.archived_at is None:
            row.archived_at = row.updated_at = now
            session.add(row)
        return row

    def delete(self, session: Session, row: Row) -> None:
        """Raises Conflict unless it is a draft."""
        self.require_draft(row)
        session.delete(row)

    def unsound(self, session: Session, draft: Row) -> list[Fault]:
        """Why it cannot be published."""
        return self.faults(session, self.document_of(draft))

    def require_draft(self, row: Row) -> None:
        """Raises Conflict."""
        if row.status != "draft":
            detail = f"A published {self.noun} cannot change; make a new version by POST of the same key."
            raise Conflict(detail, code=f"{self.code}_published")

    # --- finding -----------------------------------------------------------------------------------------------------

    def get(self, session: Session, id_or_key: str, version: int | None = None) -> Row:
        """One version by its id, or by key and number; by key alone the active one, or the newest. Raises NotFound."""
        row = session.get(self.table, id_or_key)
        if row is None and version is None:
            row = self.on_sale(session, id_or_key) or session.exec(self._newest_first(id_or_key)).first()
        elif row is None and version is not None:
            row = self.get_version(session, id_or_key, version)
        if row is None or version not in (None, row.version):
            raise NotFound(f"There is no such {self.noun}.", code=f"{self.code}_not_found")
        return row

    def get_by_id(self, session: Session, row_id: str) -> Row:
        """One version, for whoever is about to change it: a key would leave open which. Raises NotFound."""
        row = session.get(self.table, row_id)
        if row is None:
            raise NotFound(f"There is no {self.noun} version of this id.", code=f"{self.code}_not_found")
        return row

    def get_version(self, session: Session, key: str, version: int) -> Row | None:
        return session.exec(self._newest_first(key).where(self.table.version == version)).first()

    def on_sale(self, session: Session, key: str) -> Row | None:
        """What a new customer gets."""
        active = self.every(key=key, status="active").order_by(None).order_by(col(self.table.version).desc())
        return session.exec(active).first()

    def draft(self, session: Session, key: str) -> Row | None:
        """The one that may change; there is one at most."""
        return session.exec(self.every(key=key, status="draft")).first()

    def current(self, session: Session, key: str) -> Row | None:
        """The version on sale, or the draft where none is."""
        return self.on_sale(session, key) or self.draft(session, key)

    def every(
        self, *, key: str | None = None, status: Status | None = None, currency: str | None = None
    ) -> SelectOfScalar[Row]:
        """The versions, by key and number."""
        table = self.table
        rows = select(table).order_by(col(table.key), col(table.version))
        if key is not None:
            rows = rows.where(table.key == key)
        if currency is not None:
            rows = rows.where(table.currency == currency)
        if status == "draft":
            rows = rows.where(col(table.published_at).is_(None))
        elif status == "active":
            rows = rows.where(col(table.published_at).is_not(None), col(table.archived_at).is_(None))
        elif status == "archived":
            rows = rows.where(col(table.archived_at).is_not(None))
        return rows

    def _newest_first(self, key: str) -> SelectOfScalar[Row]:
        return select(self.table).where(self.table.key == key).order_by(col(self.table.version).desc())

    # --- rules -------------------------------------------------------------------------------------------------------

    def _checked(self, session: Session, document: dict[str, Any]) -> dict[str, Any]:
        """The columns. Raises Invalid with every fault."""
        if found := self.faults(session, document):
            raise Invalid(found)
        return self.columns(document)

    @property
    def _currency_fixed(self) -> Fault:
        detail = f"cannot change, and is the same over all versions; use another {self.noun} key"
        return {"pointer": "/currency", "detail": detail}
