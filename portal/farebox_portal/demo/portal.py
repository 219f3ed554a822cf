"""The demo's portal: `farebox migrate`, `farebox seed` and `farebox portal` in one process.

Importing SQL and web frameworks is most of what a start takes; done in one process it is done once.

    python -m farebox_portal.demo.portal --port 8001         (settings from FAREBOX_*, as usual)
"""

import argparse
import sys
from dataclasses import replace

from sqlalchemy import Engine

from farebox_portal.clock import SystemClock
from farebox_portal.db import make_engine, transaction
from farebox_portal.demo.cards import leave_cards, take_payments
from farebox_portal.demo.state import DemoCustomer, State
from farebox_portal.errors import CannotStart
from farebox_portal.logs import configure_logs
from farebox_portal.migrate import migrate
from farebox_portal.seed import seed
from farebox_portal.serve import serve
from farebox_portal.settings import Settings, load_settings
from farebox_portal.testclock import portal_clock


def seed_and_keep_keys(engine: Engine, settings: Settings, state: State) -> None:
    """Seed, and write the API keys into secrets.json. Raises CannotStart when a key was lost with that file."""
    secrets = state.read_secrets()
    found: dict[str, DemoCustomer] = {}
    with transaction(engine) as session:
        for name, seeded in seed(session, settings, SystemClock().now()).items():
            known = secrets.customers.get(name)
            api_key = seeded.api_key or (known.api_key if known else None)
            if api_key is None:
                raise CannotStart(
                    f"{state.folder} has lost the API key of {name} (secrets.json); remove it to start afresh"
                )
            found[name] = DemoCustomer(seeded.email, api_key, seeded.subscription_id)
        # Before the commit: keys that nobody knows would be lost for good, unused ones are only overwritten.
        state.write_secrets(replace(secrets, customers=found))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    configure_logs()
    try:
        settings = load_settings()
        engine = make_engine(settings.sql_url)
        migrate(engine)
        take_payments(engine, settings, portal_clock(settings, engine).now())
        seed_and_keep_keys(engine, settings, State(settings.state_dir))
        leave_cards(engine, settings, portal_clock(settings, engine).now())
        serve(settings, engine, "127.0.0.1", arguments.port, with_jobs=True)
    except CannotStart as error:
        sys.stderr.write(f"{error.detail}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
