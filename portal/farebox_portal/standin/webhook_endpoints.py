"""Webhook endpoints: where events go, and the secret that signs them, told once.

An endpoint keeps the version it was made with. A rolled secret signs together with the new one for a day.
"""

import hashlib
import hmac

from farebox_portal.standin.books import Books, new_id
from farebox_portal.standin.checkout import check_url
from farebox_portal.standin.customers import merge_metadata
from farebox_portal.standin.operation import Operation
from farebox_portal.standin.shapes import PAGE, Each, Flag, Metadata, Needed, Shape, Text
from farebox_portal.standin.wire import API_VERSION, Document, Given, Refused, page

ENDPOINTS_MAX = 16
ROLLED_FOR_S = 24 * 3600


def add_endpoint(books: Books, url: str, **fields: object) -> Document:
    """With a secret of its own."""
    return books.add("webhook_endpoint", "we", url=url, _secrets=[{"secret": _new_secret(), "until": None}], **fields)


def set_secret(books: Books, endpoint: Document, secret: str) -> None:
    """This one alone, from now on."""
    endpoint["_secrets"] = [{"secret": secret, "until": None}]
    books.save(endpoint)


def roll(books: Books, endpoint: Document) -> str:
    """A new secret; the old one signs too for a day, as after the dashboard's "roll secret"."""
    for each in endpoint["_secrets"]:
        each["until"] = each["until"] or books.now() + ROLLED_FOR_S
    secret = _new_secret()
    endpoint["_secrets"] = [*endpoint["_secrets"], {"secret": secret, "until": None}]
    books.save(endpoint)
    return secret


def _new_secret() -> str:
    return "whsec_" + new_id("", 32)[1:]


def signature(books: Books, endpoint: Document, payload: str) -> str:
    """The header `Stripe-Signature`. Dated by the wall's clock, which the receiver holds it against."""
    at_s = books.clock.wall_ms() // 1000
    secrets = [each["secret"] for each in endpoint["_secrets"] if each["until"] is None or each["until"] > books.now()]
    signed = f"{at_s}.{payload}".encode()
    signatures = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={at_s}", *(f"v1={each}" for each in signatures)])


def _create(books: Books, given: Given) -> Document:
    if len(list(books.all("webhook_endpoint"))) >= ENDPOINTS_MAX:
        raise Refused(400, f"You have reached the maximum of {ENDPOINTS_MAX} test webhook endpoints.")
    version = given.get("api_version", API_VERSION)
    if version != API_VERSION:
        raise Refused(400, f"The payment stand-in speaks {API_VERSION} alone, not {version}.", param="api_version")
    url = check_url(given["url"], "url")
    endpoint = add_endpoint(
        books,
        url,
        api_version=version,
        description=given.get("description") or None,
        enabled_events=given["enabled_events"],
    )
    merge_metadata(endpoint, given)
    return endpoint | {"secret": endpoint["_secrets"][0]["secret"]}


def _update(books: Books, given: Given) -> Document:
    endpoint = books.get("webhook_endpoint", given["id"])
    if "url" in given:
        endpoint["url"] = check_url(given["url"], "url")
    endpoint |= {name: given[name] or None for name in ("description", "enabled_events") if name in given}
    if "disabled" in given:
        endpoint["status"] = "disabled" if given["disabled"] else "enabled"
    merge_metadata(endpoint, given)
    books.save(endpoint)
    return endpoint


def _retrieve(books: Books, given: Given) -> Document:
    return books.get("webhook_endpoint", given["id"])


def _list(books: Books, given: Given) -> Document:
    return page(books.newest("webhook_endpoint"), given, "/v1/webhook_endpoints")


def _delete(books: Books, given: Given) -> Document:
    endpoint = books.get("webhook_endpoint", given["id"])
    books.remove(endpoint)
    return {"id": endpoint["id"], "object": "webhook_endpoint", "deleted": True}


_SET: dict[str, Shape] = {"description": Text(5000), "metadata": Metadata()}
_NEW: dict[str, Shape] = _SET | {
    "api_version": Text(),
    "enabled_events": Needed(Each(Text())),
    "url": Needed(Text()),
}
_CHANGE: dict[str, Shape] = _SET | {"disabled": Flag(), "enabled_events": Each(Text()), "url": Text()}

OPERATIONS = (
    Operation("POST", "/v1/webhook_endpoints", "webhook_write", _create, _NEW),
    Operation("GET", "/v1/webhook_endpoints", "webhook_read", _list, PAGE),
    Operation("GET", "/v1/webhook_endpoints/{id}", "webhook_read", _retrieve),
    Operation("POST", "/v1/webhook_endpoints/{id}", "webhook_write", _update, _CHANGE),
    Operation("DELETE", "/v1/webhook_endpoints/{id}", "webhook_write", _delete),
)
