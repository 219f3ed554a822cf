"""Payments over HTTP: connect a provider, its webhooks, the pages a paying customer passes, and what went wrong."""

import html
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import Field, SecretStr, StrictBool
from sqlmodel import col, select
from starlette.concurrency import run_in_threadpool

from farebox_portal.auth import AdminOnly, ClockDep, Parts, PartsDep, ReadSessionDep, SessionDep
from farebox_portal.clock import Clock
from farebox_portal.customers import accounts
from farebox_portal.db import transaction
from farebox_portal.documents import Input, Instant, JsonRoute, Name, Output
from farebox_portal.errors import Conflict, FareboxError, Invalid, NotFound
from farebox_portal.idempotency import OnceDep
from farebox_portal.invoicing import actions, profiles
from farebox_portal.invoicing.profile_document import Country, ProfileInput
from farebox_portal.invoicing.show import InvoiceDocument
from farebox_portal.invoicing.show import show as show_invoice
from farebox_portal.pages import Listing, PageDep, listing
from farebox_portal.payments import account, checkout, disputes, events, operations, refunds, replay, webhook_endpoint
from farebox_portal.payments.gateway import Gateway, GatewayFailure, Unauthorized
from farebox_portal.payments.open import RETRIES_OF_REQUESTS, jobs_per_s, open_gateway
from farebox_portal.payments.progress import ProgressDocument, progress
from farebox_portal.payments.tables import Collection, Operation, Payer, PaymentEvent, Refund
from farebox_portal.problems import RESPONSES

log = structlog.get_logger(__name__)

router = APIRouter(
    prefix="/v1", tags=["payments"], route_class=JsonRoute, dependencies=[AdminOnly], responses=RESPONSES
)
public = APIRouter(tags=["payments"])

EventState = Literal["pending", "handled", "ignored", "dead"]
RefundState = Literal["due", "done", "outside", "by_operator"]
CollectionState = Literal["waiting", "failed", "action_required", "stopped", "done"]


class InvalidSignature(FareboxError):
    """Raised when an event was not signed with a secret of ours. Answered with 400, as Stripe expects."""

    default_code = "invalid_signature"


class CollectionDocument(Output):
    """`payAt`: the next try. `fault`: why the last one failed, or why somebody has to look at it."""

    invoice_id: str
    customer_id: str
    status: CollectionState
    provider_id: str | None
    tries: int
    fault: str | None
    pay_at: Instant | None
    failed_at: Instant | None
    updated_at: Instant


class SetupInput(Input):
    """What the default billing profile says, which is made with it. `country`: the supplier's.

    `apiKey` is not taken from here, as it would have to be stored: if it is given it must be that of the environment.
    """

    api_key: SecretStr | None = None
    name: Name | None = None
    tax_enabled: StrictBool = False
    tax_enforced: StrictBool = False
    country: Country = "US"

    def profile(self) -> ProfileInput:
        return profiles.of_provider(self.name, self.country, is_taxed=self.tax_enabled, is_enforced=self.tax_enforced)


class PaymentPageInput(Input):
    """`flow`: lead there at once, and not to the overview. `returnUrl`: where the page leads back to."""

    return_url: Annotated[str, Field(max_length=2048, pattern=r"^https?://")] | None = None
    flow: Literal["payment_method_update"] | None = None


class PageDocument(Output):
    url: str


# --- the provider ----------------------------------------------------------------------------------------------------


@router.post("/setup/stripe", status_code=201, response_model_exclude_none=True)
def connect_stripe(parts: PartsDep, clock: ClockDep, body: SetupInput | None = None) -> account.ReadinessDocument:
    """Collect by the account of FAREBOX_STRIPE_API_KEY from now on. 409 the second time."""
    gateway = _given_gateway(parts, None if body is None else body.api_key)
    account.connect(parts.engine, gateway, parts.settings, clock.now(), None if body is None else body.profile())
    with transaction(parts.engine, read_only=True) as session:
        return account.readiness(session, parts.settings, gateway)


@router.post("/setup/stripe/rotate", response_model_exclude_none=True)
def rotate_stripe(parts: PartsDep, clock: ClockDep) -> account.ReadinessDocument:
    """FAREBOX_STRIPE_API_KEY is another key of the same account and mode; the webhook's secret is looked after too.

    Until then nothing is sent with it.
    """
    gateway = _given_gateway(parts)
    account.rotate(parts.engine, gateway, parts.settings, clock.now())
    with transaction(parts.engine, read_only=True) as session:
        return account.readiness(session, parts.settings, gateway)


@router.post("/setup/stripe/webhook/rotate", response_model_exclude_none=True)
def rotate_webhook_secret(parts: PartsDep, clock: ClockDep) -> account.ReadinessDocument:
    """A new endpoint with a new secret in the place of ours; what was signed with the one before is still good. 409
    where somebody made one by hand, or the provider cannot reach us.
    """
    gateway = _gateway(parts)
    with transaction(parts.engine, read_only=True) as session:
        connected = account.connected(session)
    if connected is None:
        raise Conflict("No Stripe account is connected; connect one first.", code="stripe_not_connected")
    try:
        is_new = webhook_endpoint.look_after(
            parts.engine, gateway, parts.settings, connected, clock.now(), is_forced=True
        )
    except GatewayFailure as failure:
        raise _away(failure) from failure
    if not is_new:
        raise Conflict("The webhook endpoint is not ours to make.", code="webhook_not_ours")
    with transaction(parts.engine, read_only=True) as session:
        return account.readiness(session, parts.settings, gateway)


@router.get("/billing-readiness", response_model_exclude_none=True)
def get_billing_readiness(session: ReadSessionDep, parts: PartsDep) -> account.ReadinessDocument:
    """Whether invoices are collected, and what is missing if not. Asks our own records only."""
    return account.readiness(session, parts.settings, open_gateway(parts.settings, RETRIES_OF_REQUESTS))


def _gateway(parts: Parts) -> Gateway:
    """Raises Unauthorized for a key that nobody has checked."""
    found = _given_gateway(parts)
    with transaction(parts.engine, read_only=True) as session:
        connected = account.connected(session)
    if connected is not None and not account.is_checked(connected, found):
        raise Unauthorized("The key was replaced; POST /v1/setup/stripe/rotate.", code="stripe_key_changed")
    return found


def _given_gateway(parts: Parts, said: SecretStr | None = None) -> Gateway:
    """The one of the environment. Raises Invalid, also where a request says another key."""
    if said is not None and (fault := parts.settings.fault_of_stripe_key(said.get_secret_value())) is not None:
        raise Invalid([{"pointer": "/apiKey", "detail": fault}], code="stripe_key_refused")
    found = open_gateway(parts.settings, RETRIES_OF_REQUESTS)
    if found is None:
        detail = "FAREBOX_STRIPE_API_KEY is not set; the key comes from the environment and is not stored."
        raise Invalid([{"pointer": "", "detail": detail}], code="stripe_key_missing")
    if said is not None and said != parts.settings.stripe_api_key:
        detail = "is another key than FAREBOX_STRIPE_API_KEY; the key comes from the environment and is not stored"
        raise Invalid([{"pointer": "/apiKey", "detail": detail}], code="stripe_key_differs")
    return found


# --- what came, and what did not -------------------------------------------------------------------------------------


@router.get("/payment-events", response_model_exclude_none=True)
def list_payment_events(
    session: ReadSessionDep, page: PageDep, status: EventState | None = None
) -> Listing[events.EventDocument]:
    """The latest first. `dead`: could not be applied, however often it was tried."""
    rows = select(PaymentEvent).order_by(col(PaymentEvent.received_at).desc(), col(PaymentEvent.id))
    if status is not None:
        rows = rows.where(PaymentEvent.state == status)
    return listing(session, rows, page, events.show)


@router.post("/payment-events/{event_id}/replay", response_model_exclude_none=True)
def replay_payment_event(event_id: str, session: SessionDep, clock: ClockDep) -> events.EventDocument:
    """Apply it once more. What it is about is read anew, so that it can do no harm."""
    return events.show(events.replay(session, event_id, clock.now()))


@router.get("/payment-operations", response_model_exclude_none=True)
def list_payment_operations(
    session: ReadSessionDep,
    page: PageDep,
    status: operations.State | None = None,
    object_id: Annotated[str | None, Query(alias="objectId", description="An invoice's or a customer's id")] = None,
) -> Listing[operations.OperationDocument]:
    """Whatever the provider was asked to do, the latest first. `unknown`: nobody was told whether it was done."""
    rows = select(Operation).order_by(col(Operation.updated_at).desc(), col(Operation.key))
    if status is not None:
        rows = rows.where(Operation.state == status)
    if object_id is not None:
        rows = rows.where(Operation.object_id == object_id)
    return listing(session, rows, page, operations.show)


@router.post("/payment-operations/{key}/replay", response_model_exclude_none=True)
def replay_payment_operation(key: str, parts: PartsDep, clock: ClockDep) -> operations.OperationDocument:
    """See what the provider has, and do what is still missing. Nothing is done twice."""
    with transaction(parts.engine, read_only=True) as session:
        connected = account.connected(session)
    if connected is None:
        raise Conflict("No payment provider is connected.", code="stripe_not_connected")
    try:
        return operations.show(replay.replay(parts.engine, _gateway(parts), connected, key, clock.now()))
    except GatewayFailure as failure:
        raise _away(failure) from failure


@router.get("/payment-collections", response_model_exclude_none=True)
def list_collections(
    session: ReadSessionDep,
    page: PageDep,
    status: CollectionState | None = None,
    customer_id: Annotated[str | None, Query(alias="customerId", description="Id or key")] = None,
) -> Listing[CollectionDocument]:
    """Invoices that the provider collects. `stopped`: somebody has to look at it, and then says `collect`."""
    rows = select(Collection).order_by(col(Collection.created_at).desc(), col(Collection.invoice_id))
    if status is not None:
        rows = rows.where(Collection.state == status)
    if customer_id is not None:
        rows = rows.where(Collection.customer_id == accounts.get(session, customer_id).id)
    return listing(session, rows, page, _show)


@router.get("/payment-collections/progress", response_model_exclude_none=True)
def get_progress(session: ReadSessionDep, parts: PartsDep, clock: ClockDep) -> ProgressDocument:
    """How many invoices wait to be collected, how fast they are, and when the last of them will be."""
    return progress(session, clock.now(), jobs_per_s(parts.settings))


@router.get("/payment-refunds", response_model_exclude_none=True)
def list_refunds(
    session: ReadSessionDep, page: PageDep, status: RefundState | None = None
) -> Listing[refunds.RefundDocument]:
    """What credit notes give back of what was paid by the provider. `by_operator`: make it in its dashboard."""
    rows = select(Refund).order_by(col(Refund.created_at).desc(), col(Refund.credit_note_id))
    if status is not None:
        rows = rows.where(Refund.state == status)
    return listing(session, rows, page, refunds.show)


@router.post("/invoices/{id_or_number}/waive-dispute", response_model=InvoiceDocument)
def waive_dispute(id_or_number: str, once: OnceDep) -> JSONResponse:
    """Access in spite of a payment that is disputed or was lost by that (see FAREBOX_DISPUTED_ACCESS)."""

    def produce() -> InvoiceDocument:
        invoice = disputes.waive(once.session, actions.get(once.session, id_or_number), once.now)
        return show_invoice(once.session, invoice)

    return once.answer(200, produce)


@router.post("/invoices/{id_or_number}/collect", response_model_exclude_none=True)
def collect_invoice(id_or_number: str, session: SessionDep, clock: ClockDep) -> CollectionDocument:
    """Try to take the money now, also if that was stopped or is planned for later."""
    invoice = actions.get(session, id_or_number)
    row = session.get(Collection, invoice.id)
    if row is None or row.state == "done":
        raise Conflict("The invoice is not being collected by a provider.", code="invoice_not_collected")
    replay.wake(session, row, clock.now(), pays=True)
    return _show(row)


def _show(row: Collection) -> CollectionDocument:
    return CollectionDocument(
        invoice_id=row.invoice_id,
        customer_id=row.customer_id,
        status=row.state,  # type: ignore[arg-type]  # it is one of them
        provider_id=row.provider_id,
        tries=row.tries,
        fault=row.fault,
        pay_at=row.pay_at,
        failed_at=row.failed_at,
        updated_at=row.updated_at,
    )


@router.post("/customers/{id_or_key}/payment-page", response_model_exclude_none=True)
def open_payment_page(id_or_key: str, parts: PartsDep, body: PaymentPageInput | None = None) -> PageDocument:
    """A page of the provider's on which the customer changes the card and sees invoices; good for a few minutes."""
    wanted = body or PaymentPageInput()
    return_url = wanted.return_url or parts.settings.public_url
    with transaction(parts.engine, read_only=True) as session:
        payer = session.get(Payer, accounts.get(session, id_or_key).id)
    if payer is None or payer.provider_id is None:
        raise Conflict("The customer has never paid by the provider.", code="no_payment_customer")
    try:
        return PageDocument(
            url=_gateway(parts).portal_url(payer.provider_id, return_url, to_card=wanted.flow is not None)
        )
    except GatewayFailure as failure:
        raise _away(failure) from failure


def _away(failure: GatewayFailure) -> Conflict:
    log.warning("provider_failed", code=failure.code)
    return Conflict("The payment provider did not do it; try again later.", code="provider_failed")


# --- for everybody ---------------------------------------------------------------------------------------------------


@public.post("/v1/webhooks/stripe")
async def take_webhook(
    request: Request,
    parts: PartsDep,
    clock: ClockDep,
    signature: Annotated[str, Header(alias="Stripe-Signature")] = "",
) -> Response:
    """Stripe's events: checked, kept, answered; applied a moment later."""
    body = await request.body()
    return await run_in_threadpool(_take, parts, clock, body, signature)


def _take(parts: Parts, clock: Clock, body: bytes, signature: str) -> Response:
    with transaction(parts.engine, read_only=True) as session:
        secrets = account.webhook_secrets(session, parts.settings)
    gateway = open_gateway(parts.settings, RETRIES_OF_REQUESTS)
    if gateway is None or not secrets:  # with no secret, everything would be genuine
        raise NotFound("Webhooks are not set up.", code="webhooks_not_set_up")
    if not gateway.is_genuine(body, signature, secrets):
        raise InvalidSignature("The signature is not valid, or the clocks differ by more than five minutes.")
    hint = gateway.hint(body)
    if hint.is_live != gateway.is_live:  # a secret of the other mode was configured
        raise InvalidSignature("The event is of the other mode; live and test never mix.", code="stripe_mode_differs")
    with transaction(parts.engine) as session:
        events.store(session, hint, body, clock.now())
    return Response(status_code=200)


@public.get("/checkout/done", response_class=HTMLResponse, include_in_schema=False)
def checkout_done(parts: PartsDep, clock: ClockDep, session: str = "") -> Response:
    """Where the provider's page leads back to."""
    with transaction(parts.engine, read_only=True) as reading:
        connected = account.connected(reading)
    if connected is None:
        raise NotFound("There is no such checkout.", code="checkout_not_found")
    try:
        status = checkout.advance_checkout(parts.engine, _gateway(parts), connected, session, clock.now())
    except GatewayFailure:
        status = "open"  # the clock asks again
    return _page(*_WORDS[status], refreshes=status == "open")


@public.get("/checkout/canceled", response_class=HTMLResponse, include_in_schema=False)
def checkout_canceled() -> Response:
    return _page("Nothing was saved", "You can close this page, or go back and try again.")


@public.get("/checkout/{token}", include_in_schema=False)
def open_checkout(token: str, parts: PartsDep, clock: ClockDep) -> Response:
    """On to the provider's page."""
    now = clock.now()
    order = checkout.read_token(parts.settings, token, now)
    try:
        url = checkout.open_page(parts.engine, _gateway(parts), parts.settings, order, now)
    except GatewayFailure as failure:
        log.warning("checkout_not_opened", code=failure.code)
        return _page("Please try again", "The payment provider did not answer. Nothing was saved.", status=503)
    return RedirectResponse(url, 303, headers={"Cache-Control": "no-store"})


_WORDS = {
    "complete": ("Your payment method is saved", "You can close this page."),
    "open": ("One moment", "Your payment method is being saved."),
    "expired": ("This page is not valid any more", "Nothing was saved. Go back and try again."),
}


def _page(title: str, text: str, *, refreshes: bool = False, status: int = 200) -> HTMLResponse:
    refresh = '<meta http-equiv="refresh" content="2">' if refreshes else ""
    title, text = html.escape(title), html.escape(text)
    body = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"{refresh}<title>{title}</title><style>:root{{color-scheme:light dark}}body{{font:1rem/1.5 system-ui;"
        f"max-width:32rem;margin:20vh auto;padding:0 1rem}}</style><main><h1>{title}</h1><p>{text}</p></main></html>"
    )
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(body, status, headers=headers)
