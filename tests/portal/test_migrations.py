from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from builders.databases import DIALECTS, Databases
from farebox_portal.errors import CannotStart
from farebox_portal.migrate import migrate, require_current
from farebox_portal.tables import metadata


@pytest.fixture(scope="session", params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_steps_add_up_to_the_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_every_module_of_tables_is_gathered() -> None:
    """A table that `tables.py` forgets would be missing from the steps without the comparison seeing it."""
    portal = Path(__file__).parents[2] / "portal" / "farebox_portal"
    declared = {
        line.split('"')[1]
        for path in portal.rglob("*.py")
        for line in path.read_text().splitlines()
        if line.strip().startswith('__tablename__ = "')
    }
    gathered = Path(portal / "tables.py").read_text()
    assert declared == set(metadata.tables)
    for path in portal.rglob("tables.py"):
        if path.parent != portal:
            assert path.parent.name in gathered


def test_a_second_migration_changes_nothing(engine: Engine) -> None:
    before = inspect(engine).get_table_names()
    migrate(engine)
    assert inspect(engine).get_table_names() == before
    require_current(engine)


def test_an_empty_database_is_refused_with_the_remedy(databases: Databases) -> None:
    with databases.empty() as engine, pytest.raises(CannotStart, match="run `farebox migrate`"):
        require_current(engine)


def test_processes_that_start_together_migrate_once(databases: Databases) -> None:
    with databases.empty() as engine:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: migrate(engine), range(4)))
        require_current(engine)


def test_a_database_of_a_newer_version_is_left_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (migrate, require_current):
        with pytest.raises(CannotStart, match="newer Farebox"):
            attempt(engine)
