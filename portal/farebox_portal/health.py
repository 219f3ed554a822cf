"""For whoever runs the process: is it alive, can it work, how is it doing."""

from typing import ClassVar

import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from farebox_portal.auth import PartsDep
from farebox_portal.documents import Output
from farebox_portal.errors import CannotStart, FareboxError
from farebox_portal.metrics import Metrics
from farebox_portal.migrate import require_current

log = structlog.get_logger(__name__)
router = APIRouter(tags=["health"])


class NotReady(FareboxError):
    """Raised by /readyz. The balancer sends nobody here until it is answered otherwise."""

    status: ClassVar[int] = 503
    title = "Not ready"
    default_code = "not_ready"


class Health(Output):
    status: str


@router.get("/healthz", summary="Whether the process runs", operation_id="health")
async def healthz() -> Health:
    return Health(status="ok")


@router.get("/readyz", summary="Whether requests can be served: the database answers and has the right schema",
            operation_id="ready", responses={503: {"description": "Not now"}})  # fmt: skip
def readyz(parts: PartsDep) -> Health:
    try:
        require_current(parts.engine)
    except CannotStart as error:
        raise NotReady(error.detail) from None
    except SQLAlchemyError as error:
        # What the driver says names hosts and users: that is for the log.
        log.warning("database_unreachable", error=type(error).__name__)
        raise NotReady("The database does not answer.") from None
    return Health(status="ready")


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    found: Metrics = request.app.state.metrics
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST)
