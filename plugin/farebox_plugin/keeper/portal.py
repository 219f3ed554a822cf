"""The three things the keeper asks of the portal."""

import asyncio

import httpx2
from google.protobuf.message import DecodeError

from farebox.v1.entitlements_pb2 import Account
from farebox.v1.usage_pb2 import (
    AccountsQuestion,
    AccountState,
    AccountStates,
    Heartbeat,
    HeartbeatReceipt,
    Receipt,
    UsageBatch,
)
from farebox_plugin.records import Unavailable

TIMEOUT_S = 10.0
ACCOUNTS_AT_ONCE = 100
QUESTIONS_AT_ONCE = 3
CONFLICT = 409
_PROTOBUF = {"content-type": "application/x-protobuf"}


class NameTaken(Exception):
    """Another gateway lives under this name; the message says what to do."""


class Portal:
    """The portal's internal endpoints, with the plugin's token."""

    def __init__(self, url: str, token: str) -> None:
        self._wanted: list[tuple[str, asyncio.Future[AccountState]]] = []
        self._questions: set[asyncio.Task[None]] = set()
        self._client = httpx2.AsyncClient(
            base_url=url, timeout=TIMEOUT_S, trust_env=False, headers={"authorization": f"Bearer {token}"}
        )

    async def store_usage(self, batch: UsageBatch) -> Receipt:
        """Deliver a piece of a spool. Raises Unavailable; delivering it again is harmless."""
        body = await self._ask("POST", "/internal/v1/usage", content=batch.SerializeToString(), headers=_PROTOBUF)
        return Receipt.FromString(body)

    async def account_state(self, account: str, gateway: str) -> tuple[Account, AccountState]:
        """What the ledger knows of an account, in one consistent view of now or later. Raises Unavailable.

        What is asked for while questions are on their way goes into the next one: fifty accounts cost the portal little
        more than one, and after a failover all of them are asked for.
        """
        future: asyncio.Future[AccountState] = asyncio.get_running_loop().create_future()
        self._wanted.append((account, future))
        if len(self._questions) < QUESTIONS_AT_ONCE:
            task = asyncio.ensure_future(self._ask_for_wanted(gateway))
            self._questions.add(task)
            task.add_done_callback(self._questions.discard)
        state = await future
        if not state.account:
            raise Unavailable(f"the portal has no document of the account {account}")
        return Account.FromString(state.account), state

    async def _ask_for_wanted(self, gateway: str) -> None:
        while self._wanted:
            asked, self._wanted = self._wanted[:ACCOUNTS_AT_ONCE], self._wanted[ACCOUNTS_AT_ONCE:]
            found: list[AccountState] | Unavailable = Unavailable("the keeper stops")
            try:
                found = await self._states([account for account, _ in asked], gateway)
            except Unavailable as fault:
                found = fault
            finally:
                for place, (_, future) in enumerate(asked):
                    if future.done():  # whoever asked has gone
                        continue
                    if isinstance(found, Unavailable):
                        future.set_exception(found)
                    else:
                        future.set_result(found[place])

    async def _states(self, accounts: list[str], gateway: str) -> list[AccountState]:
        question = AccountsQuestion(accounts=accounts, gateway=gateway).SerializeToString()
        body = await self._ask("POST", "/internal/v1/accounts/states", content=question, headers=_PROTOBUF)
        try:
            states = AccountStates.FromString(body).states
        except DecodeError as fault:
            raise Unavailable("the portal's answer is none about accounts") from fault
        if len(states) != len(accounts):
            raise Unavailable(f"the portal answers about {len(states)} accounts instead of {len(accounts)}")
        return list(states)

    async def beat(self, heartbeat: Heartbeat) -> HeartbeatReceipt:
        """Say that this gateway is there. Raises Unavailable or NameTaken."""
        content = heartbeat.SerializeToString()
        response = await self._send("POST", "/internal/v1/gateways", content=content, headers=_PROTOBUF)
        if response.status_code == CONFLICT:
            raise NameTaken(response.json()["detail"])
        return HeartbeatReceipt.FromString(_body(response))

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, method: str, path: str, **arguments: object) -> bytes:
        return _body(await self._send(method, path, **arguments))

    async def _send(self, method: str, path: str, **arguments: object) -> httpx2.Response:
        try:
            return await self._client.request(method, path, **arguments)  # type: ignore[arg-type]
        except httpx2.HTTPError as fault:
            raise Unavailable(f"the portal does not answer: {type(fault).__name__}") from fault


def _body(response: httpx2.Response) -> bytes:
    if response.status_code in (401, 403):
        raise Unavailable("the portal refuses the plugin's token: is FAREBOX_PLUGIN_TOKEN the same on both sides?")
    if response.status_code != 200:
        request = response.request
        raise Unavailable(
            f"the portal answers {response.status_code} to {request.method} {request.url.path.rpartition('/')[0]}"
        )
    return response.content
