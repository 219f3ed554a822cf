"""Usage over HTTP: a subscription's allowances, a meter's history, and the plugin's deliveries."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, Field
from sqlmodel import Session, col, or_, select

from farebox_portal.auth import AdminOnly, ClockDep, ReadSessionDep
from farebox_portal.catalog.tables import Meter
from farebox_portal.clock import SystemClock
from farebox_portal.documents import Input, Instant, JsonRoute
from farebox_portal.errors import Invalid, NotFound
from farebox_portal.pages import Listing, PageDep, listing
from farebox_portal.problems import RESPONSES
from farebox_portal.usage import gateways
from farebox_portal.usage.access import UsageDocument, usage_document
from farebox_portal.usage.grant_routes import router as grant_router
from farebox_portal.usage.query import Question, as_csv, as_document, query_meter

router = APIRouter(prefix="/v1", dependencies=[AdminOnly], route_class=JsonRoute, responses=RESPONSES, tags=["usage"])
router.include_router(grant_router)

LIST_MAX = 100
_DIMENSION = "filterGroupBy["


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("must be an IANA time zone like Europe/Berlin") from None
    return name


Names = Annotated[list[str], Field(max_length=LIST_MAX)]
WindowSize = Literal["MINUTE", "HOUR", "DAY", "MONTH"]
Zone = Annotated[str, AfterValidator(_known_zone)]


class MeterQuery(Input):
    """What is asked of a meter; everything may be left out. Lists are alternatives."""

    from_: Annotated[Instant | None, Field(alias="from")] = None
    to: Instant | None = None
    window_size: WindowSize | None = None
    window_time_zone: Zone = "UTC"
    subject: Names = Field(default_factory=list, max_length=LIST_MAX)
    filter_customer_id: Names = Field(default_factory=list, max_length=LIST_MAX)
    filter_subscription: Names = Field(default_factory=list, max_length=LIST_MAX)
    filter_group_by: dict[str, Names] = Field(default_factory=dict, max_length=LIST_MAX)
    group_by: Names = Field(default_factory=list, max_length=LIST_MAX)


def query_parameters(
    request: Request,
    from_: Annotated[Instant | None, Query(alias="from")] = None,
    to: Instant | None = None,
    window_size: Annotated[WindowSize | None, Query(alias="windowSize")] = None,
    window_time_zone: Annotated[Zone, Query(alias="windowTimeZone")] = "UTC",
    subject: Annotated[Names, Query()] = [],  # noqa: B006  (FastAPI copies it)
    filter_customer_id: Annotated[Names, Query(alias="filterCustomerId")] = [],  # noqa: B006
    filter_subscription: Annotated[Names, Query(alias="filterSubscription")] = [],  # noqa: B006
    group_by: Annotated[Names, Query(alias="groupBy")] = [],  # noqa: B006
) -> MeterQuery:
    """The same as parameters; dimensions are written `filterGroupBy[model]=gpt-4`."""
    dimensions: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        if name.startswith(_DIMENSION) and name.endswith("]"):
            dimensions.setdefault(name[len(_DIMENSION) : -1], []).append(value)
    return MeterQuery.model_validate(
        {
            "from": from_,
            "to": to,
            "windowSize": window_size,
            "windowTimeZone": window_time_zone,
            "subject": subject,
            "filterCustomerId": filter_customer_id,
            "filterSubscription": filter_subscription,
            "filterGroupBy": dimensions,
            "groupBy": group_by,
        }
    )


@router.get("/subscriptions/{subscription_id}/usage", response_model_exclude_none=True)
def get_usage(subscription_id: str, session: ReadSessionDep, clock: ClockDep) -> UsageDocument:
    """What the subscription used in its current periods, and what is left."""
    return usage_document(session, subscription_id, clock.now())


@router.get("/subscriptions/{subscription_id}/access", response_model_exclude_none=True)
def get_access(subscription_id: str, session: ReadSessionDep, clock: ClockDep) -> UsageDocument:
    """The same document: what the subscription may do now."""
    return usage_document(session, subscription_id, clock.now())


@router.get("/gateways", response_model_exclude_none=True)
def list_gateways(session: ReadSessionDep, page: PageDep) -> Listing[gateways.GatewayDocument]:
    """Every plugin that delivers usage here, and when it was last heard of."""
    now = SystemClock().now()
    return listing(session, gateways.every(), page, lambda row: gateways.show(row, now))


@router.get("/meters/{id_or_slug}/query")
def get_meter_query(
    id_or_slug: str,
    request: Request,
    query: Annotated[MeterQuery, Depends(query_parameters)],
    session: ReadSessionDep,
    clock: ClockDep,
) -> Response:
    """A meter's usage in windows and groups; CSV with `Accept: text/csv`."""
    return _answer(session, id_or_slug, query, clock.now(), request.headers)


@router.post("/meters/{id_or_slug}/query")
def post_meter_query(
    id_or_slug: str, request: Request, query: MeterQuery, session: ReadSessionDep, clock: ClockDep
) -> Response:
    """The same with the question in the body."""
    return _answer(session, id_or_slug, query, clock.now(), request.headers)


def _answer(
    session: Session, id_or_slug: str, query: MeterQuery, now: datetime, headers: Mapping[str, str]
) -> Response:
    question = _question(query, now)
    points = query_meter(session, _meter(session, id_or_slug), question)
    if "text/csv" in headers.get("accept", ""):
        return Response(as_csv(question, points), media_type="text/csv")
    return JSONResponse(as_document(question, points))


def _question(query: MeterQuery, now: datetime) -> Question:
    to = query.to or now
    if query.from_ is not None and query.from_ >= to:
        raise Invalid([{"pointer": "/from", "detail": "must be before `to`"}])
    if query.from_ is not None and query.from_ < datetime(1970, 1, 2, tzinfo=UTC):
        raise Invalid([{"pointer": "/from", "detail": "must be after 1970-01-01"}])
    return Question(
        to=to,
        from_=query.from_,
        window_size=query.window_size,
        zone=ZoneInfo(query.window_time_zone),
        subjects=query.subject,
        customer_ids=query.filter_customer_id,
        subscription_ids=query.filter_subscription,
        dimensions=query.filter_group_by,
        group_by=list(dict.fromkeys(query.group_by)),
    )


def _meter(session: Session, id_or_slug: str) -> Meter:
    meter = session.exec(
        select(Meter).where(
            or_(col(Meter.id) == id_or_slug, col(Meter.slug) == id_or_slug), col(Meter.deleted_at).is_(None)
        )
    ).first()
    if meter is None:
        raise NotFound("There is no such meter.")
    return meter
