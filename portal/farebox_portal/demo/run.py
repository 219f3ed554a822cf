"""``farebox demo``: the whole product, one command, until Ctrl-C.

Progress and trouble go to stderr. Stdout gets what to do with it: a page to read, or with ``--json`` one line.
"""

import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

from farebox_portal.demo.child import Child, Stopped
from farebox_portal.demo.stack import Stack, Wanted
from farebox_portal.demo.state import open_state, socket_folder
from farebox_portal.errors import CannotStart

RESTARTED = frozenset({"valkey", "plugin", "payments"})
"""These may die and come back without a wrong decision, and a user should be able to watch that."""
DEATHS_MAX = 3
DEATHS_WINDOW_S = 30.0
_WATCH_EVERY_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_demo(state: Path | None, gateway_port: int | None, portal_port: int | None, as_json: bool) -> int:
    """Run until a signal or a fatal death; the exit status of the command.

    Runs in the main thread (signals), and clears ``FAREBOX_*`` from the environment: a demo must not meet the
    database or the store of a real installation because their URLs happen to be exported.
    """
    for name in [name for name in os.environ if name.startswith("FAREBOX_")]:
        del os.environ[name]
    stop_asked = Event()
    with _signals_set(stop_asked):
        try:
            with open_state(state) as opened, socket_folder() as sockets:
                stack = Stack(opened, sockets, Wanted(gateway_port, portal_port), stop_asked, _say)
                try:
                    stack.start()
                    _show(stack, as_json)
                    return _watch(stack, stop_asked)
                finally:
                    opened.environment_file.unlink(missing_ok=True)
                    stack.stop()
        except Stopped:
            return 0
        except CannotStart as error:
            _say(f"farebox demo: {error.detail}\n")
            return 1


def _watch(stack: Stack, stop_asked: Event) -> int:
    """Bring back what may die, until told to stop (0) or until something is dead for good (1)."""
    deaths = {name: deque[float](maxlen=DEATHS_MAX + 1) for name in stack.children}
    while not stop_asked.wait(_WATCH_EVERY_S):
        for name, child in stack.children.items():
            if child.exit_status is not None and not _survived(child, deaths[name]):
                return 1
    return 0


def _survived(child: Child, deaths: deque[float]) -> bool:
    """Report a death; start the child again unless it is one of those, or of that many, that end the demo."""
    if child.name not in RESTARTED:
        _say(f"farebox demo: {child.obituary()}\n")
        return False
    deaths.append(time.monotonic())
    if len(deaths) > DEATHS_MAX and deaths[-1] - deaths[0] <= DEATHS_WINDOW_S:
        _say(f"farebox demo: died {len(deaths)} times within {DEATHS_WINDOW_S:.0f} s: {child.obituary()}\n")
        return False
    how = child.exit_status
    child.start()
    _say(f"farebox demo: {child.name} {how}; started again (pid {child.pid})\n")
    return True


def _document(stack: Stack) -> dict[str, Any]:
    customers = {
        name: {
            "email": customer.email,
            "password": None,
            "apiKey": customer.api_key,
            "subscriptionId": customer.subscription_id,
        }
        for name, customer in stack.secrets.customers.items()
    }
    return {
        "gateway": stack.url("gateway"),
        "portal": stack.url("portal"),
        "payments": stack.url("payments"),
        "upstream": stack.url("upstream"),
        "envoyAdmin": stack.url("envoy admin"),
        "adminToken": stack.secrets.admin_token,
        "customers": customers,
        "pids": {name: child.pid for name, child in stack.children.items()},
        "state": str(stack.state.folder),
    }


def _show(stack: Stack, as_json: bool) -> None:
    document = _document(stack)
    stack.state.write_environment(_variables(document))
    text = json.dumps(document) if as_json else _page(document)
    with suppress(BrokenPipeError):
        print(text, flush=True)


def _variables(document: dict[str, Any]) -> dict[str, str]:
    """GATEWAY, PORTAL, ADMIN, and for each seeded customer its key and subscription: FREE_KEY, FREE_SUBSCRIPTION, …"""
    found = {"GATEWAY": document["gateway"], "PORTAL": document["portal"], "ADMIN": document["adminToken"]}
    found["PAYMENTS"] = document["payments"]
    for name, customer in document["customers"].items():
        found[f"{name.upper()}_KEY"] = customer["apiKey"]
        found[f"{name.upper()}_SUBSCRIPTION"] = customer["subscriptionId"]
    return found


def _page(document: dict[str, Any]) -> str:
    gateway, portal = document["gateway"], document["portal"]
    keys = {name: customer["apiKey"] for name, customer in document["customers"].items()}
    width = max(map(len, keys))
    listed = "\n".join(f"  {name:<{width}}  {key}" for name, key in keys.items())
    return f"""
Farebox is running.

  gateway      {gateway}   what your customers call
  portal       {portal}   REST API, described in {portal}/openapi.json
  payments     {document["payments"]}   the stand-in for Stripe: no money moves; GET /__standin/log lists its calls
  upstream     {document["upstream"]}   the API behind the gateway; GET /__log lists what reached it
  envoy admin  {document["envoyAdmin"]}
  state, logs  {document["state"]}

In another shell, for all of these as variables:   . {document["state"]}/demo.env

API keys, by plan
{listed}

Operator token
  {document["adminToken"]}

A request that is let in, and one that is not: premium is not in the free plan.

  curl -i {gateway}/v1/echo -H "Authorization: Bearer {keys["free"]}"
  curl -i {gateway}/v1/premium/report -H "Authorization: Bearer {keys["free"]}"

Tokens, metered from the answer:

  curl {gateway}/v1/chat/completions -H "Authorization: Bearer {keys["ai"]}" \\
    -H "Content-Type: application/json" \\
    -d '{{"max_tokens": 20, "messages": [{{"role": "user", "content": "count these four words"}}]}}'

What has been counted:

  curl -X POST {portal}/v1/meters/api_requests/query -H "Authorization: Bearer {document["adminToken"]}" \\
    -H "Content-Type: application/json" -d '{{"groupBy": ["subject"]}}'

Ctrl-C stops it.
"""


def _say(text: str) -> None:
    with suppress(BrokenPipeError):
        sys.stderr.write(text)
        sys.stderr.flush()


@contextmanager
def _signals_set(stop_asked: Event) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal set the event instead of ending us, and go on doing so while we stop."""
    before = {number: signal.signal(number, lambda _number, _frame: stop_asked.set()) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
