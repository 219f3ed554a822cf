"""`/v1/billing/profiles`: how is invoiced, and how tax is dealt with."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from farebox_portal.auth import AdminOnly, PartsDep, ReadSessionDep
from farebox_portal.documents import JsonRoute
from farebox_portal.idempotency import OnceDep
from farebox_portal.invoicing import profiles
from farebox_portal.invoicing.profile_document import ProfileDocument, ProfileInput, show
from farebox_portal.invoicing.terms import terms_of
from farebox_portal.pages import Listing, PageDep, slice_page
from farebox_portal.payments.account import connected
from farebox_portal.problems import RESPONSES

router = APIRouter(
    prefix="/v1/billing/profiles", tags=["billing"], route_class=JsonRoute, dependencies=[AdminOnly],
    responses=RESPONSES,
)  # fmt: skip


@router.get("", response_model_exclude_none=True)
def list_profiles(session: ReadSessionDep, page: PageDep, parts: PartsDep) -> Listing[ProfileDocument]:
    """The default one first."""
    terms = terms_of(parts.settings)
    return slice_page([show(row, terms) for row in profiles.every(session)], page)


@router.get("/{profile_id}", response_model_exclude_none=True)
def get_profile(profile_id: str, session: ReadSessionDep, parts: PartsDep) -> ProfileDocument:
    return show(profiles.get(session, profile_id), terms_of(parts.settings))


@router.post("", status_code=201, response_model=ProfileDocument)
def create_profile(body: ProfileInput, once: OnceDep, parts: PartsDep) -> JSONResponse:
    """The first one is the default."""

    def produce() -> ProfileDocument:
        account = connected(once.session)
        account_id = None if account is None else account.account_id
        return show(profiles.create(once.session, body, account_id, once.now), terms_of(parts.settings))

    return once.answer(201, produce)


@router.put("/{profile_id}", response_model=ProfileDocument)
def replace_profile(profile_id: str, body: ProfileInput, once: OnceDep, parts: PartsDep) -> JSONResponse:
    """As a whole. The default one stays it until another one is. What was issued stays as it was."""
    return once.answer(
        200, lambda: show(profiles.replace(once.session, profile_id, body, once.now), terms_of(parts.settings))
    )
