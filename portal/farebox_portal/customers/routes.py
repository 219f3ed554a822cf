"""Customers over HTTP. Deleting one is in `subscriptions/routes.py`, as it depends on what was bought."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from farebox_portal.auth import AdminOnly, ClockDep, ReadSessionDep, SessionDep
from farebox_portal.customers import accounts
from farebox_portal.documents import JsonRoute
from farebox_portal.idempotency import OnceDep
from farebox_portal.pages import Listing, PageDep, listing
from farebox_portal.problems import RESPONSES

router = APIRouter(
    prefix="/v1/customers", tags=["customers"], route_class=JsonRoute, dependencies=[AdminOnly], responses=RESPONSES
)


@router.get("", response_model_exclude_none=True)
def list_customers(session: ReadSessionDep, page: PageDep) -> Listing[accounts.CustomerDocument]:
    return listing(session, accounts.every(), page, accounts.show)


@router.post("", status_code=201, response_model=accounts.CustomerDocument)
def create_customer(body: accounts.CustomerInput, once: OnceDep) -> JSONResponse:
    return once.answer(201, lambda: accounts.show(accounts.create(once.session, body, once.now)))


@router.get("/{id_or_key}", response_model_exclude_none=True)
def get_customer(id_or_key: str, session: ReadSessionDep) -> accounts.CustomerDocument:
    return accounts.show(accounts.get(session, id_or_key))


@router.patch("/{id_or_key}", response_model_exclude_none=True)
def change_customer(
    id_or_key: str, body: accounts.CustomerChange, session: SessionDep, clock: ClockDep
) -> accounts.CustomerDocument:
    return accounts.show(accounts.change(session, accounts.get(session, id_or_key), body, clock.now()))
