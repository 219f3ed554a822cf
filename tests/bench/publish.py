"""How long it takes until 10 000 changed subscriptions are in Valkey: read, compile, publish, note.

    cd tests && ../.venv/bin/python -m bench.publish [--subscriptions 10000] [--dialect sqlite]

All of them changed at one moment, as a new catalog or a new configuration makes them. The target is 10 s.
"""

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, process_time

import redis

from bench.accounts import insert_accounts
from builders.databases import DIALECTS, databases_of
from builders.portal import NOW, a_feature, a_meter, an_account
from farebox_portal.db import transaction
from farebox_portal.entitlements.publish import publish_pending
from rig.valkey import Valkey

TARGET_S = 10.0


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--subscriptions", type=int, default=10_000)
    asked.add_argument("--dialect", choices=DIALECTS, action="append")
    options = asked.parse_args()
    print(
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before, {options.subscriptions} subscriptions"
    )
    for dialect in options.dialect or DIALECTS:
        measure(dialect, options.subscriptions)


def measure(dialect: str, subscriptions: int) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fb-bench-")))
        databases = stack.enter_context(databases_of(dialect, folder))
        engine = stack.enter_context(databases.migrated())
        valkey = stack.enter_context(Valkey(folder / "valkey"))
        store = redis.Redis.from_url(valkey.url)
        stack.callback(store.close)
        with transaction(engine) as session:
            a_meter(session)
            a_feature(session, meter_slug="api_requests")
            _, like, _ = an_account(session, "first")
            insert_accounts(session, like.plan_id, subscriptions - 1, 1, NOW)
        wall, cpu = perf_counter(), process_time()
        published = publish_pending(engine, store, NOW)
        wall, cpu = perf_counter() - wall, process_time() - cpu
        assert published == subscriptions, published
        assert store.exists(*[f"fb:{{{like.customer_id}}}:e"]) == 1
        verdict = "met" if wall <= TARGET_S else "not met"
        print(f"{dialect:11} {wall:6.2f} s, {cpu:6.2f} s CPU of the portal; at most {TARGET_S:.0f} s: {verdict}")


if __name__ == "__main__":
    main()
