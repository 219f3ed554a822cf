"""Run the stand-in.

python -m farebox_portal.standin --port 12111 [--state FILE] [--webhook-url URL --webhook-secret whsec_…]
"""

import argparse
import sys
from pathlib import Path

from farebox_portal.errors import CannotStart
from farebox_portal.standin.app import Standin, server
from farebox_portal.standin.wire import LABEL


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m farebox_portal.standin", description=f"{LABEL}.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--public-url", help="how browsers reach the pages, if not by host and port")
    parser.add_argument("--state", type=Path, help="keep the records in this file over a restart")
    parser.add_argument("--webhook-url", help="send all events here")
    parser.add_argument("--webhook-secret", help="sign them with this (whsec_…)")
    given = parser.parse_args()
    if bool(given.webhook_url) != bool(given.webhook_secret):
        parser.error("--webhook-url and --webhook-secret belong together")
    try:
        standin = Standin(given.public_url or f"http://{given.host}:{given.port}", state=given.state)
    except CannotStart as error:
        sys.stderr.write(f"{error.detail}\n")
        sys.exit(1)
    if given.webhook_url:
        standin.add_webhook(given.webhook_url, given.webhook_secret)
    server(standin, given.host, given.port).run()


if __name__ == "__main__":
    main()
