"""The three things the keeper asks of the portal."""

import httpx2

from farebox.v1.entitlements_pb2 import Account
from farebox.v1.usage_pb2 import AccountState, Heartbeat, HeartbeatReceipt, Receipt, UsageBatch
from farebox_plugin.records import Unavailable

TIMEOUT_S = 10.0
CONFLICT = 409
_PROTOBUF = {"content-type": "application/x-protobuf"}


class NameTaken(Exception):
    """Another gateway lives under this name; the message says what to do."""


class Portal:
    """The portal's internal endpoints, with the plugin's token."""

    def __init__(self, url: str, token: str) -> None:
        self._client = httpx2.AsyncClient(
            base_url=url, timeout=TIMEOUT_S, trust_env=False, headers={"authorization": f"Bearer {token}"}
        )

    async def store_usage(self, batch: UsageBatch) -> Receipt:
        """Deliver a piece of a spool. Raises Unavailable; delivering it again is harmless."""
        body = await self._ask("POST", "/internal/v1/usage", content=batch.SerializeToString(), headers=_PROTOBUF)
        return Receipt.FromString(body)

    async def account_state(self, account: str, gateway: str) -> tuple[Account, AccountState]:
        """What the ledger knows of an account, in one consistent view. Raises Unavailable."""
        path = f"/internal/v1/accounts/{account}/state"
        state = AccountState.FromString(await self._ask("GET", path, params={"gateway": gateway}))
        return Account.FromString(state.account), state

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
