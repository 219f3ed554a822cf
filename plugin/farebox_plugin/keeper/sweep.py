"""Closes what a crash left open. Nothing here has a clock that releases a hold: every hold ends with a record.

    an intent whose worker is dead, never known to have been let in   given back
    a request that was let in, and whose end nobody reported          charged at its hold, flagged "ambiguous", counted
    a request that ended, whose worker died before it told Valkey     told again
    a refusal that crossed a rebuild, which held it meanwhile         given back

The second is the policy for what cannot be known: the upstream probably served it. It waits long enough for the slowest
response, and for the access log to come through another worker.
"""

import asyncio
from collections import Counter as Tally
from collections.abc import Callable

import structlog

from farebox_plugin.keeper.index import END_REMEMBERED_S, Index, OpenRequest
from farebox_plugin.records import Settlement
from farebox_plugin.settlement import Settlements
from farebox_plugin.spool import SpoolFull
from farebox_plugin.terms import held_by_meter

log = structlog.get_logger()

INTERVAL_S = 0.5
# Envoy asks another worker within its own timeout (0.5 s) if it asks again at all.
INTENT_GRACE_S = 1.0
# The workers of a keeper that died leave within this time (worker.run).
PREDECESSORS_LEAVE_S = 1.0


class Sweeper:
    """Looks over the open requests twice a second."""

    def __init__(
        self,
        index: Index,
        settlements: Settlements,
        live_spools: Callable[[], set[str]],
        orphan_after_s: float,
    ) -> None:
        self._index = index
        self._settlements = settlements
        self._live_spools = live_spools
        self._orphan_after_s = orphan_after_s
        self._looked_at = 0.0
        self.counts: Tally[str] = Tally()

    async def run(self) -> None:
        # A keeper before us and its workers may have died before they had told Valkey everything.
        await asyncio.sleep(PREDECESSORS_LEAVE_S)
        self.worker_died(asyncio.get_running_loop().time())
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                self.sweep(asyncio.get_running_loop().time())
            except SpoolFull as fault:
                log.error("spool_full", reason=str(fault))

    def sweep(self, at: float) -> None:
        """One look. Raises SpoolFull."""
        live = self._live_spools()
        for request in self._index.open_requests():
            age_s = at - request.seen_at
            if request.is_allowed:
                if age_s > self._orphan_after_s:
                    self._charge(request)
            elif age_s > INTENT_GRACE_S and not live & request.claims.keys():
                self._give_back(request)
        self._take_back(self._looked_at, rebuilt=True)
        self._looked_at = at
        self._index.forget_ends(at - END_REMEMBERED_S)
        self._index.forget_shipped(at)

    def worker_died(self, at: float) -> None:
        """What it had written but perhaps not yet told Valkey is told again; SETTLE applies to open holds only."""
        self._index.catch_up(at)
        self._settlements.repeat(self._index.ended_since(at - END_REMEMBERED_S))
        self._take_back(at - END_REMEMBERED_S, rebuilt=False)

    def _take_back(self, since: float, *, rebuilt: bool) -> None:
        for rid, account, spool in self._index.given_up_since(since, rebuilt=rebuilt):
            self._settlements.take_back(rid, account, owner=spool)

    def _charge(self, request: OpenRequest) -> None:
        quantities = held_by_meter(request.hold)
        self.counts["ambiguous"] += 1
        log.warning("outcome_unknown_charged", rid=request.grant.rid, account=request.grant.account, units=quantities)
        self._settlements.settle([Settlement(request.grant, 0, quantities, ("ambiguous",))])

    def _give_back(self, request: OpenRequest) -> None:
        self.counts["given_back"] += 1
        self._settlements.settle([Settlement(request.grant, 0, {})])
