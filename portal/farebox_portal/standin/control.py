"""`/__standin/…`: the other side of the counter. JSON in, JSON out, documented at `/`; for tests and for the demo.

Anybody who reaches it may do anything: it belongs on loopback. A POST must say that it is JSON, which keeps the pages
of other sites out.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from farebox_portal.standin import keys, webhook_endpoints
from farebox_portal.standin.actions import ACTIONS
from farebox_portal.standin.api import Api
from farebox_portal.standin.billing_portal import ensure_default
from farebox_portal.standin.books import Books
from farebox_portal.standin.deliveries import Deliveries
from farebox_portal.standin.faults import Faults, describe
from farebox_portal.standin.passing import pass_time
from farebox_portal.standin.tax import tax_settings
from farebox_portal.standin.wire import LABEL, Document, Refused

Given = Mapping[str, Any]
Answer = Callable[[Given], Awaitable[Any]]


class Control:
    def __init__(self, books: Books, api: Api, faults: Faults, deliveries: Deliveries) -> None:
        self._books = books
        self._api = api
        self._faults = faults
        self._deliveries = deliveries

    def routes(self) -> list[Route]:
        return [
            Route("/healthz", self._endpoint(self._health), methods=["GET"]),
            *self._route("/__standin/account", set_=self._set_account),
            *self._route("/__standin/actions/{name_of_action}", set_=self._act),
            *self._route("/__standin/clock", self._show_clock, self._advance_clock),
            *self._route("/__standin/deliveries", self._show_deliveries),
            *self._route("/__standin/faults", self._show_faults, self._add_faults, self._clear_faults),
            *self._route("/__standin/keys", set_=self._set_key),
            *self._route("/__standin/log", self._show_log, delete=self._clear_log),
            *self._route("/__standin/reset", set_=self._reset),
            *self._route("/__standin/webhooks", self._show_webhooks, self._set_webhooks),
            *self._route("/__standin/webhooks/{step}", set_=self._step_webhooks),
        ]

    def _route(
        self, path: str, get: Answer | None = None, set_: Answer | None = None, delete: Answer | None = None
    ) -> list[Route]:
        answers = {"GET": get, "POST": set_, "DELETE": delete}
        return [Route(path, self._endpoint(answer), methods=[method]) for method, answer in answers.items() if answer]

    def _endpoint(self, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        """`answer` gets the JSON that was sent and the path's names; what it raises is said, what it changed kept."""

        async def respond(request: Request) -> Response:
            self._books.cause = {"id": None, "idempotency_key": None}
            try:
                given = await _given(request) if request.method == "POST" else {}
                return JSONResponse(await answer({**given, **request.path_params}))
            except Refused as refused:
                return JSONResponse(refused.body, refused.status)
            except KeyError as error:
                return _wrong(f"{error.args[0]} is missing")
            except (ValueError, TypeError) as error:
                return _wrong(str(error))
            finally:
                self._books.commit()
                self._deliveries.wake()

        return respond

    async def _health(self, given: Given) -> Document:
        return {"status": "ok", "label": LABEL, "pid": os.getpid()}

    async def _show_faults(self, given: Given) -> Document:
        return {"faults": describe(self._faults.queue)}

    async def _add_faults(self, given: Given) -> Document:
        self._faults.add(given)
        return await self._show_faults(given)

    async def _clear_faults(self, given: Given) -> Document:
        self._faults.queue.clear()
        return await self._show_faults(given)

    async def _show_webhooks(self, given: Given) -> Document:
        return self._deliveries.switches | {"pending": len(self._deliveries.pending())}

    async def _set_webhooks(self, given: Given) -> Document:
        self._deliveries.set(given)
        return await self._show_webhooks(given)

    async def _step_webhooks(self, given: Given) -> Document:
        """`flush`: send all now. `settle`: wait until nothing is due. `roll`: a new secret for an endpoint."""
        match given["step"]:
            case "flush":
                await self._deliveries.flush()
            case "settle":
                await self._deliveries.settled()
            case "roll":
                endpoint = self._books.get("webhook_endpoint", given["endpoint"])
                return {"secret": webhook_endpoints.roll(self._books, endpoint)}
            case step:
                raise ValueError(f"{step} is none of flush, settle and roll")
        return {"pending": len(self._deliveries.pending())}

    async def _show_deliveries(self, given: Given) -> Document:
        def shown(delivery: Document) -> Document:
            event = self._books.find("event", delivery["event"])
            return delivery | {"type": event and event["type"]}

        return {"deliveries": [shown(each) for each in self._books.all("_delivery")]}

    async def _show_clock(self, given: Given) -> Document:
        return {"now": self._books.now(), "ahead_s": self._books.clock.ahead_ms // 1000}

    async def _advance_clock(self, given: Given) -> Document:
        ahead_s = given["advance_s"]
        if not isinstance(ahead_s, int) or ahead_s < 0:
            raise ValueError("advance_s is a number of seconds")
        kept = self._books.settings("clock", ahead_ms=0)
        kept["ahead_ms"] = self._books.clock.ahead_ms = self._books.clock.ahead_ms + ahead_s * 1000
        self._books.save(kept)
        pass_time(self._books)
        return await self._show_clock(given)

    async def _show_log(self, given: Given) -> Document:
        return {"requests": list(self._api.log)}

    async def _clear_log(self, given: Given) -> Document:
        self._api.log.clear()
        return {"requests": []}

    async def _set_key(self, given: Given) -> Document:
        terms = {name: value for name, value in given.items() if name != "key"}
        if set(terms) - {"permissions", "revoked", "account"}:
            raise ValueError("what can be said of a key is permissions, revoked and account")
        keys.restrict(self._books, given["key"], **terms)
        return {"permissions": keys.PERMISSIONS}

    async def _set_account(self, given: Given) -> Document:
        """What an operator sets up in the dashboard: `tax` (active or pending), `portal` (configured or not)."""
        if set(given) - {"tax", "portal"} or given.get("tax", "active") not in ("active", "pending"):
            raise ValueError("tax is active or pending, portal is true or false")
        settings = tax_settings(self._books)
        settings["status"] = given.get("tax", settings["status"])
        self._books.save(settings)
        if given.get("portal") is False:
            for each in self._books.all("billing_portal.configuration", is_default=True):
                self._books.remove(each)
        elif given.get("portal"):
            ensure_default(self._books)
        return dict(given)

    async def _act(self, given: Given) -> Document:
        action = ACTIONS.get(given["name_of_action"])
        if action is None:
            raise ValueError(f"no such action; there are {', '.join(sorted(ACTIONS))}")
        return action(self._books, given)

    async def _reset(self, given: Given) -> Document:
        """Forget everything: objects, keys, switches, the log, and how far the clock was put."""
        self._books.clear()
        self._books.clock.ahead_ms = 0
        self._faults.queue.clear()
        self._api.log.clear()
        ensure_default(self._books)
        return {}


async def _given(request: Request) -> Given:
    """Raises ValueError for what is no JSON object."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise ValueError("send JSON, and say so in Content-Type")
    given = await request.json()
    if not isinstance(given, dict):
        raise ValueError("send a JSON object")
    return given


def _wrong(message: str) -> Response:
    return JSONResponse({"error": {"message": message}}, 400)
