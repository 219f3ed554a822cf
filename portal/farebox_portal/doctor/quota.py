"""Can the gateway hold a limit? Valkey, what it does when it is full, the gateways, whether counters are right."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from typing import Any

from redis import Redis, RedisError
from sqlalchemy import Engine

from farebox.v1 import layout
from farebox_portal.db import transaction
from farebox_portal.doctor.report import Check, Finding, check, fail, warn
from farebox_portal.entitlements.store import Client, Store
from farebox_portal.settings import Settings
from farebox_portal.usage import gateways

RECONCILE_S = 60
VERSION_LEAST = 7


@dataclass(frozen=True, slots=True)
class Server:
    """A primary of Valkey's. `policy`: what goes when its memory is full; `is_kept`: whether it writes to disk."""

    name: str
    version: str
    policy: str
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What `farebox reconcile` said. `accounts` None: it was not asked, `fault` says why."""

    accounts: int | None = None
    differing: tuple[str, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """`store_fault`: why Valkey could not be asked; "" if it could. `gateways`: name and status."""

    has_store: bool
    store_fault: str
    servers: tuple[Server, ...]
    is_published: bool
    gateways: tuple[tuple[str, str], ...]
    reconciled: Reconciled


def read(settings: Settings, engine: Engine | None, wall: datetime, environ: Mapping[str, str]) -> Facts:
    """`engine` None: the database cannot be asked. `wall`: gateways live by the wall's clock."""
    known: tuple[tuple[str, str], ...] = ()
    if engine is not None:
        with transaction(engine, read_only=True) as session:
            known = tuple((row.name, gateways.show(row, wall).status) for row in session.exec(gateways.every()))
    servers: tuple[Server, ...] = ()
    fault, is_published = "", False
    if settings.redis_url is not None:
        try:
            with Store(settings.redis_url) as store:
                servers = tuple(_servers(store.client()))
                is_published = store.client().get(layout.POLICIES) is not None
        except RedisError as error:
            fault = type(error).__name__  # its text may name a password
    return Facts(
        has_store=settings.redis_url is not None,
        store_fault=fault,
        servers=servers,
        is_published=is_published,
        gateways=known,
        reconciled=reconcile(environ) if servers else Reconciled(fault="there is no Valkey to compare"),
    )


def _servers(client: Client) -> Iterator[Server]:
    if isinstance(client, Redis):
        yield _server("", client)
        return
    for node in client.get_primaries():  # type: ignore[no-untyped-call]
        yield _server(node.name, client.get_redis_connection(node))


def _server(name: str, client: Redis) -> Server:
    info: Mapping[str, Any] = client.info()
    return Server(
        name=name,
        version=str(info.get("valkey_version") or info.get("redis_version", "")),
        policy=str(info.get("maxmemory_policy", "")),
        is_kept=info.get("aof_enabled") == 1,
    )


def reconcile(environ: Mapping[str, str]) -> Reconciled:
    """Ask the plugin that runs on this host, in a process of its own: the portal knows nothing of it."""
    if find_spec("farebox_plugin") is None or find_spec("hiredis") is None:
        return Reconciled(fault="the plugin is not installed here")
    command = [sys.executable, "-m", "farebox_plugin.look_over", "reconcile", "--json"]
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, env=dict(environ), capture_output=True, text=True, timeout=RECONCILE_S, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Reconciled(fault=f"it took longer than {RECONCILE_S} s")
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode and not found:
        return Reconciled(fault=done.stderr.strip().removeprefix("farebox: ") or "it failed")
    differing = tuple(one["account"] for one in found if one["result"] == "drift")
    return Reconciled(len(found), differing)


def examine(facts: Facts) -> Check:
    live = sum(status == "live" for _, status in facts.gateways)
    compared = facts.reconciled.accounts
    counters = "counters not compared" if compared is None else f"counters of {compared} accounts compared"
    summary = f"{len(facts.servers)} Valkey primaries, {live} gateways live, {counters}"
    return check("quota", "Quota", summary, _findings(facts))


def _findings(facts: Facts) -> Iterator[Finding]:
    if not facts.has_store:
        yield fail(
            "FAREBOX_REDIS_URL is not set: the gateway is told of no key and no plan", "FAREBOX_REDIS_URL=redis://…"
        )
        return
    if facts.store_fault:
        yield fail(
            f"Valkey does not answer ({facts.store_fault}): requests are refused with 503",
            "start it; FAREBOX_REDIS_URL",
        )
        return
    for server in facts.servers:
        yield from _server_findings(server)
    if not facts.is_published:
        yield fail("nothing was published to Valkey", "run `farebox jobs`, or `farebox portal` without --no-jobs")
    yield from _gateway_findings(facts.gateways)
    yield from _reconcile_findings(facts.reconciled)


def _server_findings(server: Server) -> Iterator[Finding]:
    who = f"Valkey {server.name}".strip()
    if server.policy != "noeviction":
        yield fail(
            f"{who} drops what it likes when its memory is full ({server.policy}): counters, and so limits",
            "CONFIG SET maxmemory-policy noeviction, and the same in its configuration",
        )
    major = server.version.partition(".")[0]
    if major.isdigit() and int(major) < VERSION_LEAST:
        yield fail(f"{who} is version {server.version}", f"Valkey, or Redis {VERSION_LEAST} or newer")
    if not server.is_kept:
        yield warn(
            f"{who} writes nothing to disk: a restart is a rebuild from the ledger, with 503 meanwhile",
            "appendonly yes, appendfsync everysec",
        )


def _gateway_findings(known: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    if not any(status == "live" for _, status in known):
        yield fail(
            "no gateway is live: nothing is metered", "start `farebox plugin`; FAREBOX_PORTAL_URL, FAREBOX_PLUGIN_TOKEN"
        )
    for name, status in known:
        if status == "lost":
            yield warn(
                f"the gateway '{name}' has been silent for a minute; its usage is not in the ledger",
                "start it again: it delivers what it has, or let it go for good by an empty spool directory",
            )


def _reconcile_findings(found: Reconciled) -> Iterator[Finding]:
    if found.accounts is None:
        yield warn(
            f"counters were not compared with the ledger: {found.fault}", "`farebox reconcile` on a gateway host"
        )
    elif found.differing:
        names = ", ".join(found.differing[:5])
        yield fail(
            f"the counters of {len(found.differing)} accounts differ from ledger and spools: {names}",
            "farebox reconcile --repair",
        )
