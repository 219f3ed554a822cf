"""Stripe. The only file that knows its SDK, its amounts and its errors; nothing else of the portal imports `stripe`.

Used of Stripe: customers, Checkout in `setup` mode, invoices and their items, the customer portal, webhook endpoints.
Never products, prices or subscriptions: what is charged, and when, is decided here, and Stripe moves the money.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar, cast

import stripe

from farebox_portal.payments.gateway import (
    CREDIT_NOTE,
    CUSTOMER,
    INSTANCE,
    INVOICE,
    LINE,
    Account,
    Busy,
    Declined,
    Done,
    Endpoint,
    GatewayFailure,
    Hint,
    Lacking,
    Line,
    Method,
    Missing,
    Rejected,
    RemoteCheckout,
    RemoteCustomer,
    RemoteDispute,
    RemoteInvoice,
    RemoteRefunds,
    RemoteTax,
    Request,
    Step,
    TaxQuestion,
    TaxStatus,
    Unauthorized,
    Unknown,
)
from farebox_portal.payments.pace import Pace
from farebox_portal.payments.permissions import PERMISSIONS, Permission, name_of, row_of
from farebox_portal.pricing.money import Currency, currency, from_stripe, to_stripe
from farebox_portal.settings import is_live

TIMEOUT_S = 20  # finalizing and paying take Stripe up to ten
TOLERANCE_S = 300
CALCULATED_MAX = 100
_ADDRESS = ("city", "country", "line1", "line2", "postal_code", "state")
EVENTS = (
    "setup_intent.succeeded", "checkout.session.completed", "checkout.session.expired", "invoice.finalized",
    "invoice.finalization_failed", "invoice.paid", "invoice.payment_failed", "invoice.payment_action_required",
    "invoice.marked_uncollectible", "invoice.voided", "payment_method.attached", "payment_method.detached",
    "payment_method.automatically_updated",
    "customer.updated", "customer.deleted", "charge.refunded", "charge.dispute.created", "charge.dispute.updated",
    "charge.dispute.closed",
)  # fmt: skip

Answer = TypeVar("Answer")


class StripeGateway:
    """`retries`: by the SDK itself, with the same idempotency key; few where somebody waits. `pace`: none there."""

    name = "stripe"

    def __init__(
        self,
        key: str,
        api_base: str,
        *,
        retries: int = 0,
        http_client: stripe.HTTPClient | None = None,
        pace: Pace | None = None,
    ) -> None:
        stripe.enable_telemetry = False  # it would write a file into the home directory
        self.is_live = is_live(key)
        self.fingerprint = hashlib.sha256(key.encode()).hexdigest()
        http_client = http_client or stripe.RequestsClient(timeout=TIMEOUT_S)
        self._client = stripe.StripeClient(
            key,
            base_addresses={"api": api_base},
            max_network_retries=retries,
            http_client=http_client if pace is None else _Paced(http_client, pace),
        )
        self._v1 = self._client.v1

    # --- writing -----------------------------------------------------------------------------------------------------

    def send(self, step: Step, request: Request, key: str) -> Done:
        options = cast(Any, {"idempotency_key": key})
        params = cast(Any, _params(step, request))
        v1, id_ = self._v1, request.get("id", "")
        match step:
            case "customer":
                return self._done(lambda: v1.customers.create(params, options))
            case "method":
                return self._done(lambda: v1.customers.update(id_, params, options))
            case "checkout":
                return self._done(lambda: v1.checkout.sessions.create(params, options), "url")
            case "invoice":
                return self._done(lambda: v1.invoices.create(params, options))
            case "line":
                return self._done(lambda: v1.invoice_items.create(params, options))
            case "finalize":
                return self._done(
                    lambda: v1.invoices.finalize_invoice(id_, {"auto_advance": False}, options), "hosted_invoice_url"
                )
            case "pay":
                return self._done(lambda: v1.invoices.pay(id_, {}, options), "hosted_invoice_url")
            case "void":
                return self._done(lambda: v1.invoices.void_invoice(id_, {}, options))
            case "uncollectible":
                return self._done(lambda: v1.invoices.mark_uncollectible(id_, {}, options))
            case "retries":
                return self._done(lambda: v1.invoices.update(id_, params, options))
            case "refund":
                return self._done(lambda: v1.credit_notes.create(params, options))
            case "delete":
                return self._done(lambda: v1.invoices.delete(id_))

    def _done(self, call: Callable[[], Any], url: str = "") -> Done:
        made = _call(call)
        return Done(made.id, getattr(made, url, None) if url else None)

    # --- reading -----------------------------------------------------------------------------------------------------

    def account(self) -> Account:
        found = _call(self._v1.accounts.retrieve_current)
        settings = getattr(found, "settings", None)
        name = getattr(getattr(settings, "dashboard", None), "display_name", None)
        return Account(found.id, name or "", getattr(found, "country", None) or "", _answered_at(found))

    def lacking(self) -> list[str]:
        found = [row for permission in PERMISSIONS if (row := self._lacked(permission)) is not None]
        return list(dict.fromkeys(found))  # one that is missing may be why several are refused

    def _lacked(self, permission: Permission) -> str | None:
        """What a probe says is missing, which may be another permission than the one it is about."""
        try:
            _call(lambda: self._client.raw_request(permission.method, permission.path, **permission.params))
        except Lacking as failure:
            named = name_of(failure.code)
            return row_of(failure.code) or permission.row + (f" ({named})" if named else "")
        except (Rejected, Declined):
            return None
        return None

    def invoice(self, id_: str) -> RemoteInvoice:
        return self._with_lines(_call(lambda: self._v1.invoices.retrieve(id_)))

    def invoices(self, customer: str, instance: str, invoice_id: str) -> list[RemoteInvoice]:
        # Not by `created`: our clock may have been put forward. Not by `search`: it lags by up to an hour.
        page = _call(lambda: self._v1.invoices.list({"customer": customer, "limit": 100}))
        wanted = {INSTANCE: instance, INVOICE: invoice_id}
        rows = _call(lambda: list(page.auto_paging_iter()))
        ours = [row for row in rows if wanted.items() <= _metadata(row).items()]
        return [self._with_lines(row) for row in ours]

    def _with_lines(self, found: Any) -> RemoteInvoice:
        of = currency(found.currency.upper())
        lines: tuple[tuple[str, int], ...] = ()
        if found.status == "draft":
            page = _call(lambda: self._v1.invoices.line_items.list(found.id, {"limit": 100}))
            rows = _call(lambda: list(page.auto_paging_iter()))
            lines = tuple((_metadata(row).get(LINE, row.id), from_stripe(row.amount, of)) for row in rows)
        return RemoteInvoice(
            id=found.id,
            invoice_id=_metadata(found).get(INVOICE, ""),
            customer=_id_of(found.customer) or "",
            status=found.status,
            currency=of.code,
            total_minor=from_stripe(found.total, of),
            url=found.hosted_invoice_url,
            lines=lines,
            is_taxed=bool(found.automatic_tax.enabled),
            is_retried=bool(found.auto_advance),
        )

    def customer(self, id_: str) -> RemoteCustomer:
        return _customer(_call(lambda: self._v1.customers.retrieve(id_)))

    def customers(self, email: str | None) -> list[RemoteCustomer]:
        if email is None:
            return [_customer(row) for row in _call(lambda: self._v1.customers.list({"limit": 100})).data]
        page = _call(lambda: self._v1.customers.list({"email": email, "limit": 100}))
        return [_customer(row) for row in _call(lambda: list(page.auto_paging_iter()))]

    def remove_customer(self, id_: str) -> None:
        _call(lambda: self._v1.customers.delete(id_))

    def methods(self, customer: str) -> Sequence[Method]:
        page = _call(lambda: self._v1.customers.payment_methods.list(customer, {"limit": 100}))
        rows = sorted(page.data, key=lambda row: row.created, reverse=True)
        return [Method(row.id, _label(row), _address(row)) for row in rows]

    # --- tax ---------------------------------------------------------------------------------------------------------

    def line_taxes(self, invoice: str) -> Mapping[str, Sequence[RemoteTax]]:
        page = _call(lambda: self._v1.invoices.line_items.list(invoice, {"limit": 100}))
        rows = _call(lambda: list(page.auto_paging_iter()))
        return {_metadata(row).get(LINE, row.id): _taxes(row) for row in rows}

    def assess(self, question: TaxQuestion) -> Mapping[str, Sequence[RemoteTax]]:
        of = currency(question.currency)
        found: dict[str, Sequence[RemoteTax]] = {}
        for start in range(0, len(question.lines), CALCULATED_MAX):
            given = _calculation(question, question.lines[start : start + CALCULATED_MAX])
            made = _call(partial(self._v1.tax.calculations.create, given))
            rows = made.line_items.data if made.line_items else ()
            found |= {row.reference: _broken_down(row, of) for row in rows}
        return found

    def tax_status(self, customer: str) -> TaxStatus:
        found = _call(lambda: self._v1.customers.retrieve(customer, {"expand": ["tax"]}))
        return cast(TaxStatus, getattr(getattr(found, "tax", None), "automatic_tax", None) or "failed")

    def checkout(self, id_: str) -> RemoteCheckout:
        found = _call(lambda: self._v1.checkout.sessions.retrieve(id_))
        return RemoteCheckout(found.id, _id_of(found.customer) or "", cast(Any, found.status), found.url)

    def portal_url(self, customer: str, return_url: str, *, to_card: bool = False) -> str:
        given: Any = {"customer": customer, "return_url": return_url}
        if to_card:
            given["flow_data"] = {"type": "payment_method_update"}
        return str(_call(lambda: self._v1.billing_portal.sessions.create(given)).url)

    def rows(self, path: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every object of a list, as the JSON that Stripe sends: for reading what operation has no use for."""
        after: dict[str, Any] = {}
        while True:
            asked = {"limit": 100, **params, **after}
            answer = _call(lambda asked=asked: self._client.raw_request("get", path, **asked))  # type: ignore[misc]
            yield from answer.data["data"]
            if not answer.data["has_more"] or not answer.data["data"]:
                return
            after = {"starting_after": answer.data["data"][-1]["id"]}

    # --- webhooks ----------------------------------------------------------------------------------------------------

    def endpoints(self, instance: str) -> list[Endpoint]:
        page = _call(lambda: self._v1.webhook_endpoints.list({"limit": 100}))
        rows = _call(lambda: list(page.auto_paging_iter()))
        return [_endpoint(row, instance) for row in rows]

    def add_endpoint(self, url: str, instance: str, key: str) -> Endpoint:
        given: Any = {
            "url": url,
            "enabled_events": list(EVENTS),
            "api_version": stripe.api_version,
            "description": "Farebox",
            "metadata": {INSTANCE: instance},
        }
        made = _call(lambda: self._v1.webhook_endpoints.create(given, {"idempotency_key": key}))
        return Endpoint(made.id, made.url, True, made.secret)

    def remove_endpoint(self, id_: str) -> None:
        _call(lambda: self._v1.webhook_endpoints.delete(id_))

    def invoice_of(self, payment: str) -> str | None:
        given: Any = {"payment": {"type": "payment_intent", "payment_intent": payment}, "limit": 1}
        rows = _call(lambda: self._v1.invoice_payments.list(given)).data
        return _id_of(rows[0].invoice) if rows else None

    def refund_of(self, invoice: str, credit_note: str) -> str | None:
        page = _call(lambda: self._v1.credit_notes.list({"invoice": invoice, "limit": 100}))
        rows = _call(lambda: list(page.auto_paging_iter()))
        return next((row.id for row in rows if _metadata(row).get(CREDIT_NOTE) == credit_note), None)

    def dispute(self, body: bytes) -> RemoteDispute | None:
        thing = json.loads(body)["data"]["object"]
        if thing.get("object") != "dispute" or not thing.get("payment_intent"):
            return None
        of = currency(thing["currency"].upper())
        status = thing["status"]
        outcome: Any = {"won": "won", "lost": "lost", "warning_closed": "won", "prevented": "won"}.get(status)
        return RemoteDispute(
            thing["id"], thing["payment_intent"], from_stripe(thing["amount"], of), of.code, thing["reason"],
            status.startswith("warning_"), outcome,
        )  # fmt: skip

    def refunds(self, body: bytes) -> RemoteRefunds | None:
        thing = json.loads(body)["data"]["object"]
        if thing.get("object") != "charge" or not thing.get("payment_intent"):
            return None
        of = currency(thing["currency"].upper())
        return RemoteRefunds(thing["payment_intent"], from_stripe(thing["amount_refunded"], of), of.code)

    def is_genuine(self, body: bytes, signature: str, secrets: Sequence[str]) -> bool:
        for secret in secrets:
            try:
                stripe.WebhookSignature.verify_header(body.decode(), signature, secret, TOLERANCE_S)
            except (stripe.SignatureVerificationError, ValueError):
                continue
            return True
        return False

    def hint(self, body: bytes) -> Hint:
        event = json.loads(body)
        thing = event["data"]["object"]
        kind = str(thing.get("object", ""))
        customer = thing.get("id") if kind == "customer" else thing.get("customer")
        if customer is None:  # a payment method that was detached has none any more
            customer = (event["data"].get("previous_attributes") or {}).get("customer")
        ours = {str(name): str(value) for name, value in (thing.get("metadata") or {}).items()}
        is_live = event.get("livemode") is True
        return Hint(event["id"], event["type"], kind, str(thing.get("id", "")), customer, ours, is_live)


class _Paced(stripe.HTTPClient):
    """Every request waits for its turn, also those that the SDK sends again."""

    name = "paced"

    def __init__(self, inner: stripe.HTTPClient, pace: Pace) -> None:
        super().__init__()
        self._inner = inner
        self._pace = pace

    def request(self, *given: Any, **named: Any) -> Any:
        self._pace.wait()
        return self._inner.request(*given, **named)

    def close(self) -> None:
        self._inner.close()  # type: ignore[no-untyped-call]


def _params(step: Step, request: Request) -> dict[str, Any]:
    """Our request in Stripe's words. Pure: the same request gives the same bytes, as its key demands."""
    match step:
        case "customer":
            named = {name: request[name] for name in ("email", "name") if request.get(name)}
            card = {"payment_method": request["method"]} if request.get("method") else {}
            return named | card | {"metadata": {INSTANCE: request["instance"], CUSTOMER: request["customer"]}}
        case "method":
            address = {"address": request["address"]} if request.get("address") else {}
            return {"invoice_settings": {"default_payment_method": request["method"]}} | address
        case "checkout":
            ours = {INSTANCE: request["instance"], CUSTOMER: request["our_customer"]}
            return {
                "mode": "setup",
                "customer": request["customer"],
                "currency": request["currency"].lower(),
                "success_url": request["success_url"],
                "cancel_url": request["cancel_url"],
                "client_reference_id": request["our_customer"],
                "metadata": ours,
                "setup_intent_data": {"metadata": ours},
                "billing_address_collection": "required",
                "customer_update": {"address": "auto", "name": "auto"},
                "custom_text": {"submit": {"message": request["message"]}},
            }
        case "invoice":
            return {
                "customer": request["customer"],
                "currency": request["currency"].lower(),
                "auto_advance": False,
                "collection_method": "charge_automatically",
                "pending_invoice_items_behavior": "exclude",
                # Said also where it is off: an account may have it on by default.
                "automatic_tax": {"enabled": request.get("is_taxed", False)},
                "metadata": {INSTANCE: request["instance"], INVOICE: request["invoice"]},
            } | ({"description": request["description"]} if request.get("description") else {})
        case "retries":
            return {"auto_advance": True}
        case "refund":
            of = currency(request["currency"])
            amount = to_stripe(request["amount_minor"], of)
            return {
                "invoice": request["id"],
                "amount": amount,
                "refund_amount": amount,
                "memo": request["reason"],
                "metadata": {INSTANCE: request["instance"], CREDIT_NOTE: request["credit_note"]},
            }
        case "line":
            of = currency(request["currency"])
            return {
                "customer": request["customer"],
                "invoice": request["id"],
                "currency": of.code.lower(),
                "amount": to_stripe(request["amount_minor"], of),
                "description": request["description"][:5000],
                "period": {"start": request["start_s"], "end": request["end_s"]},
                "metadata": {INSTANCE: request["instance"], LINE: request["line"]},
            } | {name: request[name] for name in ("tax_behavior", "tax_code") if request.get(name)}
        case _:
            return {}


def _call(call: Callable[[], Answer]) -> Answer:
    try:
        return call()
    except stripe.StripeError as error:
        raise _failure(error) from error


def _failure(error: stripe.StripeError) -> GatewayFailure:
    """Whether it was done, may have been done, or was not. See `gateway`."""
    # `error.code` is empty on most classes; what Stripe said is in `error.error`.
    code = str(getattr(error.error, "code", None) or getattr(error, "code", None) or "")
    said = error.user_message or str(error) or type(error).__name__
    status = error.http_status or 0
    if isinstance(error, stripe.CardError):
        needs_action = code in ("invoice_payment_intent_requires_action", "authentication_required")
        return Declined(said, code=getattr(error.error, "decline_code", None) or code, needs_action=needs_action)
    if isinstance(error, stripe.AuthenticationError):
        return Unauthorized("The key is not valid.", code="unauthorized")
    if isinstance(error, stripe.PermissionError):
        row = row_of(str(error))
        detail = said if row is None else f"The restricted key lacks the permission '{row}'."
        return Lacking(detail, code=name_of(str(error)) or "permission")
    if isinstance(error, stripe.APIConnectionError):
        return Unknown("Stripe could not be reached, or did not answer.", code="connection")
    if isinstance(error, stripe.RateLimitError):
        if code == "lock_timeout":  # kept under the key
            return Rejected(said, code=code, is_passing=True)
        return Busy(said, code=code or "rate_limit")
    if isinstance(error, stripe.IdempotencyError):
        return Rejected(said, code="idempotency_error")
    if isinstance(error, stripe.InvalidRequestError):
        if "tax" in str(getattr(error, "param", None) or "") and "tax" not in code:
            code = "tax_settings"  # such as a behaviour that nobody has said
        kind = Missing if status == 404 or code == "resource_missing" else Rejected
        return kind(said, code=code or "invalid_request")
    if status == 500 and error.error is not None:  # kept under the key
        return Rejected(said, code=code or "api_error", is_passing=True)
    return Unknown(said, code=code or f"http_{status}")


def _customer(found: Any) -> RemoteCustomer:
    if getattr(found, "deleted", False):
        return RemoteCustomer(found.id, is_deleted=True)
    settings = getattr(found, "invoice_settings", None)
    method = _id_of(getattr(settings, "default_payment_method", None))
    has_address = getattr(getattr(found, "address", None), "country", None) is not None
    return RemoteCustomer(found.id, method=method, metadata=_metadata(found), has_address=has_address)


def _address(row: Any) -> dict[str, str] | None:
    """Of the bill, where it says a country at least."""
    said = getattr(getattr(row, "billing_details", None), "address", None)
    named = {name: getattr(said, name, None) for name in _ADDRESS}
    return {name: value for name, value in named.items() if value} if named["country"] else None


def _calculation(question: TaxQuestion, lines: Sequence[Line]) -> Any:
    of = currency(question.currency)
    given: dict[str, Any] = {
        "currency": of.code.lower(),
        "line_items": [
            {"amount": to_stripe(line.amount_minor, of), "reference": line.id}
            | ({"tax_behavior": line.behavior} if line.behavior else {})
            | ({"tax_code": line.tax_code} if line.tax_code else {})
            for line in lines
        ],
        "expand": ["line_items.data.tax_breakdown"],
    }
    if question.customer is not None:
        return given | {"customer": question.customer}
    address = {"country": question.country} | ({"postal_code": question.postal_code} if question.postal_code else {})
    return given | {"customer_details": {"address": address, "address_source": "billing"}}


def _taxes(row: Any) -> tuple[RemoteTax, ...]:
    of = currency(row.currency.upper())
    return tuple(
        RemoteTax(from_stripe(one.amount, of), one.tax_behavior == "inclusive", one.taxability_reason)
        for one in row.taxes or ()
    )


def _broken_down(row: Any, of: Currency) -> tuple[RemoteTax, ...]:
    found = []
    for one in row.tax_breakdown or ():
        rate = one.tax_rate_details
        named = {} if rate is None else {"name": rate.display_name, "percentage": rate.percentage_decimal}
        found.append(
            RemoteTax(
                from_stripe(one.amount, of),
                row.tax_behavior == "inclusive",
                one.taxability_reason,
                **named,
                jurisdiction=one.jurisdiction.display_name,
                tax_type=None if rate is None else rate.tax_type,
            )
        )
    return tuple(found)


def _endpoint(row: Any, instance: str) -> Endpoint:
    told = set(row.enabled_events)
    return Endpoint(
        id=row.id,
        url=row.url,
        is_ours=_metadata(row).get(INSTANCE) == instance,
        is_enabled=row.status == "enabled",
        is_current=row.api_version == stripe.api_version,
        untold=() if "*" in told else tuple(kind for kind in EVENTS if kind not in told),
    )


def _answered_at(found: Any) -> datetime | None:
    """What the provider's clock showed, from the answer's header."""
    try:
        return parsedate_to_datetime(found.last_response.headers["Date"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _label(row: Any) -> str:
    card = getattr(row, "card", None)
    return str(row.type) if card is None else f"{card.brand} {card.last4}"


def _metadata(found: Any) -> dict[str, str]:
    metadata = getattr(found, "metadata", None)
    return {} if metadata is None else dict(metadata.to_dict())


def _id_of(field: Any) -> str | None:
    """Of what Stripe may send whole or by its id."""
    return field if field is None or isinstance(field, str) else str(field.id)
