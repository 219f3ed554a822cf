"""One transaction at a time: what SQLite needs around it."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from farebox_portal import db

WRITERS, WRITES = 6, 40


def test_writers_of_a_process_queue_instead_of_looking_whether_it_is_free_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "_PRAGMAS", ("journal_mode=WAL", "busy_timeout=1"))  # whoever has to look gives up at once
    engine = db.make_engine(f"sqlite:///{tmp_path}/x.db")
    with db.transaction(engine) as session:
        session.connection().execute(text("CREATE TABLE t (writer INTEGER)"))
    done: list[int] = []

    def write(number: int) -> None:
        for _ in range(WRITES):
            with db.transaction(engine) as session:
                session.connection().execute(text("INSERT INTO t VALUES (:writer)"), {"writer": number})
                done.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.dispose()
    assert len(done) == WRITERS * WRITES
