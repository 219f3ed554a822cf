"""Spool -> ledger: at least once from here, counted once there."""

import asyncio
from collections import Counter as Tally

import structlog

from farebox.v1.usage_pb2 import UsageBatch
from farebox_plugin.keeper.index import Index
from farebox_plugin.keeper.portal import Portal
from farebox_plugin.records import Unavailable

log = structlog.get_logger()

INTERVAL_S = 0.1
# Where there is much, a batch of a thousand costs both sides a fraction of ten of a hundred.
BUSY_INTERVAL_S = 0.6
BUSY_REQUESTS = 100
RETRY_S = 1.0
REQUESTS_MAX = 2000


class Shipper:
    """Delivers what the index holds unshipped, oldest first, one batch of one spool at a time."""

    def __init__(self, index: Index, portal: Portal) -> None:
        self._index = index
        self._portal = portal
        self._is_failing = False
        self.counts: Tally[str] = Tally()

    async def run(self) -> None:
        while True:
            self._index.catch_up(asyncio.get_running_loop().time())
            before = self.counts["shipped"]
            if not await self.ship_all():
                await asyncio.sleep(RETRY_S)
            elif self.counts["shipped"] - before >= BUSY_REQUESTS:
                await asyncio.sleep(BUSY_INTERVAL_S)
            else:
                await asyncio.sleep(INTERVAL_S)

    async def ship_all(self) -> bool:
        """Deliver everything that has been read. False: the portal does not take it now, and it stays in the spool."""
        try:
            for spool in self._index.spools:
                while (batch := self._index.next_batch(spool, REQUESTS_MAX)) is not None:
                    usage = UsageBatch(spool=spool, end=batch.end, events=batch.events)
                    receipt = await self._portal.store_usage(usage)
                    self._index.shipped(spool, receipt.end, asyncio.get_running_loop().time())
                    self.counts["shipped"] += batch.request_count
                    self.counts["quarantined"] += receipt.quarantined
        except Unavailable as fault:
            if not self._is_failing:
                log.warning("usage_waits_in_spool", reason=str(fault), events=self._index.unshipped_count)
            self._is_failing = True
            return False
        if self._is_failing:
            log.info("usage_delivered_again")
        self._is_failing = False
        return True
