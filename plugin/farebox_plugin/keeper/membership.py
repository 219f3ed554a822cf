"""Being one of several gateways: a name of one's own, a heartbeat, and leaving in order.

Whoever rebuilds an account asks all gateways that the portal knows of (peers.py). So a gateway tells the portal that it
is there before it lets in the first request, and that it left only when there is nothing left to ask it for.

    join    before the workers start. Known to the portal from before, it does not wait for it: a portal that is away
            must not keep a plugin from starting again
    beat    every few seconds; with it go the names of spools that are delivered and deleted for good
    leave   at the end, if everything is delivered and no request is open; else the portal notices the silence

The name belongs to the spool directory, as the spools are named after it: a container that comes back under another
host name on the same volume is the same gateway.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import structlog

from farebox.v1.usage_pb2 import Heartbeat
from farebox_plugin.keeper.index import Index
from farebox_plugin.keeper.portal import NameTaken, Portal
from farebox_plugin.records import Unavailable
from farebox_plugin.settings import SettingsError

log = structlog.get_logger()

IDENTITY = "gateway.json"
INTERVAL_S = 5.0
JOIN_RETRY_S = 0.2  # a portal that is started together with us is there in a moment
LEAVE_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose spool directory this is."""

    name: str
    instance: str
    is_known: bool = False  # to the portal, since it joined and until it leaves


def read_identity(spool_dir: Path, wanted: str) -> Identity:
    """The spool directory's gateway; a new one is named `wanted`, or after the host. Raises SettingsError."""
    path = spool_dir / IDENTITY
    if not path.exists():
        return Identity(wanted or host_name(), secrets.token_hex(8))
    try:
        identity = Identity(**orjson.loads(path.read_bytes()))
    except (ValueError, TypeError) as fault:
        raise SettingsError(f"FAREBOX_SPOOL_DIR: {path} is damaged; restore it or move the spools aside") from fault
    if wanted not in ("", identity.name):
        raise SettingsError(
            f"FAREBOX_GATEWAY_NAME: {spool_dir} has the spools of the gateway '{identity.name}'; keep that name, "
            "or set FAREBOX_SPOOL_DIR to an empty directory"
        )
    return identity


def write_identity(spool_dir: Path, identity: Identity) -> None:
    path = spool_dir / IDENTITY
    with path.with_suffix(".new").open("wb") as file:
        file.write(orjson.dumps(asdict(identity)))
        file.flush()
        os.fsync(file.fileno())
    path.with_suffix(".new").replace(path)


def host_name() -> str:
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in socket.gethostname())[:40]
    return name or "host"


class Membership:
    """This gateway, as the portal knows it. `was_away` is called when accounts may have been rebuilt without it."""

    def __init__(
        self,
        portal: Portal,
        index: Index,
        spool_dir: Path,
        identity: Identity,
        boot: str,
        was_away: Callable[[], None],
    ) -> None:
        self._portal = portal
        self._index = index
        self._spool_dir = spool_dir
        self._identity = identity
        self._boot = boot
        self._was_away = was_away
        self._has_beaten = False

    async def join(self) -> None:
        """Returns when the portal knows of this gateway. Raises SettingsError when the name is somebody else's."""
        is_reported = False
        while True:
            try:
                await self.beat()
            except NameTaken as fault:
                raise SettingsError(str(fault)) from fault
            except Unavailable as fault:
                if not is_reported:
                    log.warning("portal_unavailable", reason=str(fault), waits=not self._identity.is_known)
                is_reported = True
                if self._identity.is_known:
                    return
                await asyncio.sleep(JOIN_RETRY_S)
                continue
            self._note(is_known=True)
            return

    async def run(self) -> None:
        """Raises NameTaken when another plugin has taken this gateway's place."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.beat()
            except Unavailable:
                """The shipper says so."""

    async def beat(self) -> None:
        """Say that this gateway is there. Raises Unavailable or NameTaken."""
        retired = self._index.retirable(asyncio.get_running_loop().time())
        receipt = await self._portal.beat(self._heartbeat(is_first=not self._has_beaten, retired=retired))
        self._has_beaten = True
        self._index.retired(retired)
        if receipt.was_away:
            self._was_away()

    async def leave(self) -> None:
        """Say goodbye, if there is nothing left to ask this gateway for."""
        if self._index.open_count or self._index.unshipped_count:
            return
        try:
            async with asyncio.timeout(LEAVE_WITHIN_S):
                await self._portal.beat(self._heartbeat(is_leaving=True))
        except (Unavailable, NameTaken, TimeoutError):
            return
        self._note(is_known=False)

    def _heartbeat(self, **more: object) -> Heartbeat:
        return Heartbeat(
            gateway=self._identity.name,
            instance=self._identity.instance,
            boot=self._boot,
            **more,  # type: ignore[arg-type]
        )

    def _note(self, *, is_known: bool) -> None:
        self._identity = Identity(self._identity.name, self._identity.instance, is_known)
        write_identity(self._spool_dir, self._identity)
