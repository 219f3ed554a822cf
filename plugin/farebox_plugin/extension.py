"""More for a response that uses more than was held: Valkey first, then the spool, then it may pass.

Amounts are totals, so that asking again after a lost reply adds nothing. The new hold stands in the spool before the
piece that needs it passes: a rebuild of Valkey holds as much as was promised.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from farebox.v1 import layout
from farebox_plugin.directory import Directory
from farebox_plugin.link import Link, StoreFault
from farebox_plugin.records import Grant, Unavailable
from farebox_plugin.scripts import EXTEND
from farebox_plugin.spool import HELD, SpoolFull, SpoolWriter, record
from farebox_plugin.terms import Policy, Terms, held_by_meter

log = structlog.get_logger()

# Envoy gives ext_proc two seconds for each answer (message_timeout in envoy/filters.yaml).
WITHIN_S = 1.5
RETRY_S = 0.05


class Extensions:
    """Extends holds for one worker, also those of requests that another one let in."""

    def __init__(
        self, link: Link, directory: Directory, spool: SpoolWriter, load_account: Callable[[str], Awaitable[bytes]]
    ) -> None:
        self._link = link
        self._directory = directory
        self._spool = spool
        self._load_account = load_account

    async def extend(self, grant: Grant, policy: Policy, needs: Mapping[str, tuple[int, int]]) -> dict[str, int] | None:
        """Hold (at least, better) of each meter. What is held of all meters then; None: there is not even the least.

        Raises Unavailable when the store or the disk does not answer in time.
        """
        try:
            async with asyncio.timeout(WITHIN_S):
                while True:
                    try:
                        reply = await self._ask(grant, policy, needs)
                    except Unavailable:
                        await asyncio.sleep(RETRY_S)
                        continue
                    if reply is None or reply[0] in (-1, -5):
                        return None
                    if reply[0] == 1:
                        return self._keep(grant, reply[1].decode())
                    await self._reload(grant.account, is_loaded=reply[0] == -3)
        except TimeoutError:
            raise Unavailable("the store does not answer") from None
        except StoreFault as fault:
            log.error("extend_script_refused", reason=str(fault))
            raise Unavailable(str(fault)) from fault

    async def _ask(
        self, grant: Grant, policy: Policy, needs: Mapping[str, tuple[int, int]]
    ) -> tuple[int, bytes] | None:
        """One script call; None: the account is not let in any more."""
        terms = await self._terms(grant, policy)
        if terms is None:
            return None
        wanted = [(counter, *needs[counter.meter]) for counter in terms.counters if counter.meter in needs]
        keys = [layout.counters(grant.account), layout.holds(grant.account)]
        generation = self._link.server_of(keys[0]).generation
        arguments: list[bytes | str | int] = [generation, terms.version, grant.rid, len(wanted)]
        for counter, least, better in wanted:
            arguments += (counter.field, least, better, counter.limit)
        code, hold = await self._link.ask_script(EXTEND, keys, arguments)
        return code, hold

    async def _terms(self, grant: Grant, policy: Policy) -> Terms | None:
        entry = self._directory.find_account(grant.account) or await self._directory.load_account(grant.account)
        if entry is None:
            entry = self._directory.put_account(await self._load_account(grant.account))
        found = self._directory.terms_of(entry, grant.key, policy, grant.admitted_at_ms)
        return found if isinstance(found, Terms) else None

    async def _reload(self, account: str, *, is_loaded: bool) -> None:
        self._directory.forget_account(account)
        if not is_loaded:
            self._directory.put_account(await self._load_account(account))

    def _keep(self, grant: Grant, hold: str) -> dict[str, int]:
        try:
            self._spool.append([record(HELD, grant.account, hold, grant.rid)])
        except SpoolFull as fault:
            raise Unavailable(str(fault)) from fault
        return held_by_meter(hold)
