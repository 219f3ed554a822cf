"""Credit and wallets over HTTP."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from farebox_portal.auth import AdminOnly, ClockDep, PartsDep, ReadSessionDep, SessionDep
from farebox_portal.customers import accounts
from farebox_portal.documents import JsonRoute
from farebox_portal.idempotency import OnceDep
from farebox_portal.pages import Listing, PageDep, listing
from farebox_portal.prepaid import credits, recharge, show, top_ups
from farebox_portal.problems import RESPONSES

router = APIRouter(
    prefix="/v1/customers/{id_or_key}",
    tags=["credits"],
    route_class=JsonRoute,
    dependencies=[AdminOnly],
    responses=RESPONSES,
)


@router.get("/credits", response_model_exclude_none=True)
def list_credits(
    id_or_key: str, session: ReadSessionDep, clock: ClockDep, page: PageDep
) -> Listing[credits.CreditDocument]:
    """All there ever was, the oldest first."""
    customer, now = accounts.get(session, id_or_key), clock.now()
    return listing(session, credits.every(customer), page, lambda lot: credits.show(lot, now))


@router.post("/credits", status_code=201, response_model=credits.CreditDocument)
def grant_credit(id_or_key: str, body: credits.CreditInput, once: OnceDep) -> JSONResponse:
    """Grant credit for nothing: money, which pays invoices, or units of a feature, which the gateway lets be used."""

    def produce() -> credits.CreditDocument:
        customer = accounts.get(once.session, id_or_key)
        return credits.show(credits.grant(once.session, customer, body, once.now), once.now)

    return once.answer(201, produce)


@router.post("/credits/{credit_id}/void", response_model=credits.CreditDocument)
def void_credit(
    id_or_key: str, credit_id: str, once: OnceDep, body: credits.VoidCreditInput | None = None
) -> JSONResponse:
    """What is left of it is gone; with `refund` the money for it goes back. What was used stays so."""

    def produce() -> credits.CreditDocument:
        customer = accounts.get(once.session, id_or_key)
        lot = credits.get(once.session, customer, credit_id)
        refund = (body or credits.VoidCreditInput()).refund
        return credits.show(credits.void(once.session, customer, lot, once.now, refund=refund), once.now)

    return once.answer(200, produce)


@router.get("/wallet", response_model_exclude_none=True)
def get_wallet(id_or_key: str, session: ReadSessionDep, clock: ClockDep) -> show.WalletDocument:
    return show.wallet(session, accounts.get(session, id_or_key), clock.now())


@router.get("/wallet/ledger", response_model_exclude_none=True)
def list_wallet_ledger(id_or_key: str, session: ReadSessionDep, page: PageDep) -> Listing[show.LedgerDocument]:
    """Money that moved into credit and out of it, the latest first."""
    return listing(session, show.entries(accounts.get(session, id_or_key)), page, show.show_entry)


@router.get("/wallet/top-ups", response_model_exclude_none=True)
def list_top_ups(id_or_key: str, session: ReadSessionDep, page: PageDep) -> Listing[top_ups.TopUpDocument]:
    """The latest first."""
    customer = accounts.get(session, id_or_key)
    return listing(session, top_ups.every(customer), page, lambda row: top_ups.show(session, row))


@router.post("/wallet/top-ups", status_code=201, response_model=top_ups.TopUpDocument)
def order_top_up(id_or_key: str, body: top_ups.TopUpInput, once: OnceDep, parts: PartsDep) -> JSONResponse:
    """Buy credit: an invoice is issued and collected, and the credit is there once it is paid."""

    def produce() -> top_ups.TopUpDocument:
        customer = accounts.get(once.session, id_or_key)
        return top_ups.show(once.session, top_ups.order(once.session, parts.settings, customer, body, once.now))

    return once.answer(201, produce)


@router.get("/wallet/auto-recharge", response_model_exclude_none=True)
def get_auto_recharge(id_or_key: str, session: ReadSessionDep, clock: ClockDep) -> recharge.AutoRechargeDocument:
    return recharge.show(session, recharge.get(session, accounts.get(session, id_or_key)), clock.now())


@router.put("/wallet/auto-recharge", response_model_exclude_none=True)
def put_auto_recharge(
    id_or_key: str, body: recharge.AutoRechargeInput, session: SessionDep, clock: ClockDep
) -> recharge.AutoRechargeDocument:
    """Buy by itself when little is left. Said again after a payment was given up, it is tried again."""
    customer, now = accounts.get(session, id_or_key), clock.now()
    return recharge.show(session, recharge.put(session, customer, body, now), now)


@router.delete("/wallet/auto-recharge", status_code=204)
def delete_auto_recharge(id_or_key: str, session: SessionDep, clock: ClockDep) -> Response:
    recharge.remove(session, accounts.get(session, id_or_key), clock.now())
    return Response(status_code=204)
