"""What the plugin asks of the portal: take this usage; tell me all about this account. Protobuf in and out."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from google.protobuf.message import DecodeError
from starlette.exceptions import HTTPException

from farebox.v1.usage_pb2 import UsageBatch
from farebox_portal.auth import ClockDep, PluginOnly, ReadSessionDep, SessionDep
from farebox_portal.entitlements.state import account_state
from farebox_portal.errors import FareboxError
from farebox_portal.usage.ingest import NAME_LENGTH_MAX, apply_batch

router = APIRouter(prefix="/internal/v1", dependencies=[PluginOnly], include_in_schema=False)

PROTOBUF = "application/x-protobuf"


async def read_batch(request: Request) -> UsageBatch:
    """The batch in the body; 415 or 400 if it cannot be one. How long it may be is `body_limit`'s to say."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != PROTOBUF:
        raise HTTPException(415, f"Send a serialized UsageBatch as {PROTOBUF}.")
    body = await request.body()
    try:
        batch = UsageBatch.FromString(body)
    except DecodeError:
        raise FareboxError("The body is not a UsageBatch.", code="invalid_batch") from None
    if not batch.spool or len(batch.spool) > NAME_LENGTH_MAX or "\0" in batch.spool or batch.end < 0:
        raise FareboxError("The batch names no spool, or no position in it.", code="invalid_batch")
    return batch


@router.post("/usage")
def post_usage(batch: Annotated[UsageBatch, Depends(read_batch)], session: SessionDep, clock: ClockDep) -> Response:
    """Book a batch; the receipt is sent when it is committed."""
    receipt = apply_batch(session, batch, clock.now())
    return Response(receipt.SerializeToString(), media_type=PROTOBUF)


@router.get("/accounts/{account_id}/state")
def get_state(account_id: str, session: ReadSessionDep, clock: ClockDep) -> Response:
    """Everything to rebuild the account's admission from; 404 if there is no such account."""
    state = account_state(session, account_id, clock.now())
    return Response(state.SerializeToString(), media_type=PROTOBUF)
