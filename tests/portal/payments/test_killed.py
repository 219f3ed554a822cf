"""A real portal with its jobs is killed again and again while it collects (`kill -9`): nobody is charged twice."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlmodel import select

from builders.payments import Shop
from builders.stripe_client import KEY
from farebox_portal.clock import SystemClock
from farebox_portal.db import transaction
from farebox_portal.invoicing.verify import verify
from farebox_portal.payments.advance import LEASE, LEASE_OF_LINE
from farebox_portal.payments.tables import Collection
from farebox_portal.testclock import ClockAdvance, read_timeline
from rig.ports import free_port

CUSTOMERS = 6
KILLS = (4, 13, 22)
"""After so many changes at the provider since the jobs began."""


@pytest.fixture(scope="session")
def dialect() -> str:
    """On SQLite it dies at each point in `test_crashes`."""
    return "postgresql"


@contextmanager
def a_portal(shop: Shop, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    given = {
        "FAREBOX_STATE_DIR": str(folder),
        "FAREBOX_DATABASE_URL": shop.engine.url.render_as_string(hide_password=False),
        "FAREBOX_ADMIN_TOKEN": shop.settings.admin_token.get_secret_value(),
        "FAREBOX_PLUGIN_TOKEN": shop.settings.plugin_token.get_secret_value(),
        "FAREBOX_STRIPE_API_KEY": KEY,
        "FAREBOX_STRIPE_API_BASE": shop.standin.url,
    }
    command = [sys.executable, "-m", "farebox_portal", "portal", "--port", str(free_port())]
    with (folder / "portal.log").open("ab") as log:
        process = subprocess.Popen(command, env=os.environ | given, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def put_forward(shop: Shop) -> None:
    """The portal's time, past the lease of whoever died."""
    wall = SystemClock().now()
    with transaction(shop.engine) as session:
        now = read_timeline(session).portal(wall)
        session.add(ClockAdvance(wall_at=wall, advanced_to=now + LEASE + 9 * LEASE_OF_LINE))


def changes(shop: Shop) -> int:
    return sum(one["method"] != "GET" for one in shop.standin.standin.api.log)


def test_a_portal_that_is_killed_while_it_collects_charges_everybody_once(bundle: Shop, tmp_path: Path) -> None:
    bundle.clock.instant = SystemClock().now()
    for number in range(CUSTOMERS):
        bundle.a_customer(f"customer-{number}")
        bundle.a_subscription(f"customer-{number}", "bundle")
    before = changes(bundle)
    for kill_after in KILLS:
        with a_portal(bundle, tmp_path) as portal:
            wait(bundle, portal, lambda: changes(bundle) - before >= kill_after)  # noqa: B023  (called here and now)
        put_forward(bundle)
    with a_portal(bundle, tmp_path) as portal:
        wait(bundle, portal, lambda: all(row.state == "done" for row in rows(bundle)))
    assert bundle.charges() == [3401] * CUSTOMERS
    assert [one[1:] for one in bundle.there()] == [("paid", 3401, (2900, 501))] * CUSTOMERS
    assert {one.status for one in bundle.invoices()} == {"paid"}
    with transaction(bundle.engine, read_only=True) as session:
        assert verify(session) == []


def rows(shop: Shop) -> list[Collection]:
    with transaction(shop.engine, read_only=True) as session:
        found = list(session.exec(select(Collection)))
    return found if len(found) == CUSTOMERS else [Collection(state="waiting")]


def wait(shop: Shop, portal: subprocess.Popen[bytes], holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert portal.poll() is None, "the portal ended by itself"
        assert time.monotonic() < deadline, shop.collections()
        time.sleep(0.02)
