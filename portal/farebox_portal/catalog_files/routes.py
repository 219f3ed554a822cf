"""The whole catalog at once, over HTTP."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from farebox_portal.auth import AdminOnly, ClockDep, ReadSessionDep
from farebox_portal.catalog_files.apply import apply
from farebox_portal.catalog_files.document import AppliedDocument, CatalogDocument, CatalogInput
from farebox_portal.catalog_files.export import export
from farebox_portal.documents import JsonRoute
from farebox_portal.idempotency import OnceDep
from farebox_portal.problems import RESPONSES

router = APIRouter(
    prefix="/v1/catalog", tags=["catalog"], route_class=JsonRoute, dependencies=[AdminOnly], responses=RESPONSES
)


@router.get("", response_model_exclude_none=True)
def get_catalog(session: ReadSessionDep, clock: ClockDep) -> CatalogDocument:
    """As another portal takes it."""
    return export(session, clock.now())


@router.post("/apply", response_model=AppliedDocument)
def apply_catalog(body: CatalogInput, once: OnceDep) -> JSONResponse:
    """All of it or nothing. What is already as it should be is not written again."""
    answer = once.answer(200, lambda: apply(once.session, body, once.now))
    if body.dry_run:
        once.session.rollback()
    return answer
