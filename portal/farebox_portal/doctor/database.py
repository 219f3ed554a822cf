"""Is the database there, is its schema ours, and is it one that the whole installation can share?"""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from farebox_portal.doctor.report import Check, Finding, check, fail, warn
from farebox_portal.errors import CannotStart
from farebox_portal.migrate import require_current
from farebox_portal.settings import Settings


@dataclass(frozen=True, slots=True)
class Facts:
    """`fault`: why nothing can be read from it; "" if it can."""

    dialect: str
    is_production: bool
    fault: str = ""


def read(settings: Settings, engine: Engine) -> Facts:
    fault = ""
    try:
        require_current(engine)
    except CannotStart as error:
        fault = error.detail
    except SQLAlchemyError as error:
        fault = f"FAREBOX_DATABASE_URL: the database does not answer ({type(error).__name__})"
    return Facts(engine.dialect.name, settings.environment == "production", fault)


def examine(facts: Facts) -> Check:
    return check("database", "Database", f"{facts.dialect}, schema up to date", _findings(facts))


def _findings(facts: Facts) -> Iterator[Finding]:
    if facts.fault:
        yield fail(facts.fault, "start the database, then `farebox migrate`")
    if facts.dialect == "sqlite" and facts.is_production:
        yield warn(
            "SQLite: one host, and a backup is a copy of the file while nobody writes",
            "FAREBOX_DATABASE_URL=postgresql://… for more than one portal",
        )
