"""The database's schema: numbered steps in `migrations/versions`. Bring it up to date, or insist that it is."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from farebox_portal.errors import CannotStart

_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x66617265626F78  # "farebox"


def migrate(engine: Engine) -> None:
    """Bring the schema up to this version, in one transaction. Does nothing when it is already. Raises CannotStart."""
    config = _config()
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                # Two processes that start together: the second waits, and finds nothing left to do.
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            _refuse_newer(MigrationContext.configure(connection).get_current_revision(), config)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except SQLAlchemyError as error:
        raise CannotStart(f"the database cannot be migrated: {_reason(error)}") from None


def require_current(engine: Engine) -> None:
    """Raise CannotStart unless the schema is this version's. A SQLAlchemyError tells that the database is away."""
    config = _config()
    with engine.connect().execution_options(read_only=True) as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found == ScriptDirectory.from_config(config).get_current_head():
        return
    _refuse_newer(found, config)
    raise CannotStart("the database schema is not up to date: run `farebox migrate`")


def _refuse_newer(found: str | None, config: Config) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise CannotStart("the database was written by a newer Farebox: install that version, or restore a backup")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config


def _reason(error: SQLAlchemyError) -> str:
    """What the driver said, without the statement and its parameters."""
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().splitlines()[0]
