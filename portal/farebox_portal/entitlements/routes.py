"""What the plugin asks of the portal: take this usage; tell me all about these accounts; I am there. Protobuf."""

import re
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from google.protobuf.message import DecodeError
from starlette.exceptions import HTTPException

from farebox.v1.usage_pb2 import AccountsQuestion, AccountStates, Heartbeat, UsageBatch
from farebox_portal.auth import ClockDep, PluginOnly, ReadSessionDep, SessionDep
from farebox_portal.clock import SystemClock
from farebox_portal.entitlements.state import account_states
from farebox_portal.errors import FareboxError
from farebox_portal.usage.gateways import hear
from farebox_portal.usage.ingest import NAME_LENGTH_MAX, apply_batch

router = APIRouter(prefix="/internal/v1", dependencies=[PluginOnly], include_in_schema=False)

PROTOBUF = "application/x-protobuf"
_GATEWAY = re.compile(r"[A-Za-z0-9-]{1,64}")


Message = TypeVar("Message", UsageBatch, Heartbeat, AccountsQuestion)
ACCOUNTS_AT_ONCE = 200


async def read_message(request: Request, kind: type[Message], code: str) -> Message:
    """The message in the body; 415 if it is not protobuf, 400 with `code` if it is not one of its kind. How long it may
    be is `body_limit`'s to say.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != PROTOBUF:
        raise HTTPException(415, f"Send a serialized {kind.__name__} as {PROTOBUF}.")
    body = await request.body()
    try:
        return kind.FromString(body)
    except DecodeError:
        raise FareboxError(f"The body is not a {kind.__name__}.", code=code) from None


async def read_batch(request: Request) -> UsageBatch:
    """The batch in the body; 415 or 400 if it cannot be one."""
    batch = await read_message(request, UsageBatch, "invalid_batch")
    if not batch.spool or len(batch.spool) > NAME_LENGTH_MAX or "\0" in batch.spool or batch.end < 0:
        raise FareboxError("The batch names no spool, or no position in it.", code="invalid_batch")
    return batch


async def read_heartbeat(request: Request) -> Heartbeat:
    """The heartbeat in the body; 415 or 400 if it cannot be one."""
    heartbeat = await read_message(request, Heartbeat, "invalid_heartbeat")
    for name in (heartbeat.gateway, heartbeat.instance, heartbeat.boot):
        if not _GATEWAY.fullmatch(name):
            raise FareboxError("A gateway's names are letters, digits and dashes.", code="invalid_heartbeat")
    return heartbeat


async def read_question(request: Request) -> AccountsQuestion:
    """The question in the body; 415 or 400 if it cannot be one."""
    question = await read_message(request, AccountsQuestion, "invalid_question")
    if not 0 < len(question.accounts) <= ACCOUNTS_AT_ONCE:
        raise FareboxError(f"Ask for 1 to {ACCOUNTS_AT_ONCE} accounts at once.", code="invalid_question")
    return question


@router.post("/usage")
def post_usage(batch: Annotated[UsageBatch, Depends(read_batch)], session: SessionDep, clock: ClockDep) -> Response:
    """Book a batch; the receipt is sent when it is committed."""
    receipt = apply_batch(session, batch, clock.now())
    return Response(receipt.SerializeToString(), media_type=PROTOBUF)


@router.post("/gateways")
def post_heartbeat(heartbeat: Annotated[Heartbeat, Depends(read_heartbeat)], session: SessionDep) -> Response:
    """A gateway is there, or leaves; 409 if another one lives under its name."""
    receipt = hear(session, heartbeat, SystemClock().now())
    return Response(receipt.SerializeToString(), media_type=PROTOBUF)


@router.post("/accounts/states")
def post_states(
    question: Annotated[AccountsQuestion, Depends(read_question)], session: ReadSessionDep, clock: ClockDep
) -> Response:
    """Everything to rebuild these accounts' admission from."""
    states = account_states(session, question.accounts, clock.now(), question.gateway, SystemClock().now())
    return Response(AccountStates(states=states).SerializeToString(), media_type=PROTOBUF)
