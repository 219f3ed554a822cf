"""Events: what happened, with the object as it was then, and to whom that is to be told.

They have no promised order and may come twice; a receiver takes them as a hint and reads the object again.
"""

from farebox_portal.standin.books import Books
from farebox_portal.standin.operation import Operation
from farebox_portal.standin.shapes import PAGE, Each, Range, Text
from farebox_portal.standin.wire import API_VERSION, Document, Given, page

KEPT_S = 30 * 24 * 3600


def emit(books: Books, type_: str, document: Document, previous: Document | None = None) -> None:
    """Record the event and a delivery to every endpoint that wants it. `previous`: what the changed fields were."""
    data: Document = {"object": books.show(document)}
    if previous is not None:
        data["previous_attributes"] = previous
    event = books.add(
        "event", "evt", type=type_, api_version=API_VERSION, data=data, request=_cause(books), pending_webhooks=0
    )
    event["pending_webhooks"] = deliver(books, event)


def deliver(books: Books, event: Document) -> int:
    """Put the event on its way to every endpoint that wants it; how many those are."""
    endpoints = [each for each in books.all("webhook_endpoint", status="enabled") if _wants(each, event["type"])]
    due_ms = books.clock.now_ms() + books.settings("deliveries").get("delay_ms", 0)
    for each in endpoints:
        books.add(
            "_delivery", "dlv", event=event["id"], endpoint=each["id"], due_ms=due_ms, state="pending", attempts=[]
        )
    return len(endpoints)


def _cause(books: Books) -> Document:
    return {name: books.cause[name] for name in ("id", "idempotency_key")}


def _wants(endpoint: Document, type_: str) -> bool:
    return "*" in endpoint["enabled_events"] or type_ in endpoint["enabled_events"]


def _retrieve(books: Books, given: Given) -> Document:
    return books.get("event", given["id"])


def _list(books: Books, given: Given) -> Document:
    since = {"gte": books.now() - KEPT_S} | given.get("created", {})
    wanted = given.get("types") or ([given["type"]] if "type" in given else None)
    rows = [each for each in books.newest("event", since) if wanted is None or each["type"] in wanted]
    return page(rows, given, "/v1/events")


OPERATIONS = (
    Operation(
        "GET", "/v1/events", "event_read", _list, PAGE | {"created": Range(), "type": Text(), "types": Each(Text(), 20)}
    ),
    Operation("GET", "/v1/events/{id}", "event_read", _retrieve),
)
