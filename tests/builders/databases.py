"""New databases with the real schema, on either engine: made once by the migrations, then copied for each test."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, Self

from sqlalchemy import Engine

from farebox_portal.db import make_engine
from farebox_portal.migrate import migrate
from rig.postgres import Postgres

DIALECTS = ("sqlite", "postgresql")


class Databases(Protocol):
    """Where a test gets its database from; it is gone when the block ends."""

    def migrated(self) -> AbstractContextManager[Engine]:
        """One with every table, and nothing in them."""
        ...

    def empty(self) -> AbstractContextManager[Engine]:
        """One without tables."""
        ...


class SqliteFiles:
    """``with SqliteFiles(folder) as databases``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._schema = folder / "schema.db"

    def __enter__(self) -> Self:
        _migrate(f"sqlite:///{self._schema}")
        return self

    def __exit__(self, *_: object) -> None:
        self._schema.unlink()

    @contextmanager
    def migrated(self) -> Iterator[Engine]:
        with TemporaryDirectory(dir=self._folder) as folder:
            file = shutil.copy(self._schema, Path(folder) / "farebox.db")
            with _engine(f"sqlite:///{file}") as engine:
                yield engine

    @contextmanager
    def empty(self) -> Iterator[Engine]:
        with TemporaryDirectory(dir=self._folder) as folder, _engine(f"sqlite:///{folder}/farebox.db") as engine:
            yield engine


class PostgresDatabases:
    """``with Postgres() as server, PostgresDatabases(server) as databases``."""

    def __init__(self, server: Postgres) -> None:
        self._server = server

    def __enter__(self) -> Self:
        self._server.execute("CREATE DATABASE migrated")
        _migrate(self._server.url("migrated"))
        return self

    def __exit__(self, *_: object) -> None:
        self._server.execute("DROP DATABASE migrated")

    @contextmanager
    def migrated(self) -> Iterator[Engine]:
        with self._server.database("migrated") as url, _engine(url) as engine:
            yield engine

    @contextmanager
    def empty(self) -> Iterator[Engine]:
        with self._server.database() as url, _engine(url) as engine:
            yield engine


@contextmanager
def databases_of(dialect: str, folder: Path) -> Iterator[Databases]:
    """Databases of one of DIALECTS; `folder` is for SQLite's files."""
    if dialect == "sqlite":
        with SqliteFiles(folder) as files:
            yield files
    else:
        with Postgres() as server, PostgresDatabases(server) as databases:
            yield databases


def _migrate(url: str) -> None:
    with _engine(url) as engine:
        migrate(engine)


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()
