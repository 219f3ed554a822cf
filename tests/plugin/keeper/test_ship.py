from pathlib import Path

from builders.plugin import LedgerInMemory
from farebox.v1.usage_pb2 import Receipt, UsageBatch, UsageEvent
from farebox_plugin.keeper.index import Index
from farebox_plugin.keeper.ship import Shipper
from farebox_plugin.records import Unavailable
from farebox_plugin.spool import SpoolWriter, settled_record


class Ledger(LedgerInMemory):
    """Takes batches, or does not; may take one and lose the receipt."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: list[str] = []

    async def store_usage(self, batch: UsageBatch) -> Receipt:
        outcome = self.outcomes.pop(0) if self.outcomes else "taken"
        if outcome == "down":
            raise Unavailable("down")
        self.batches.append(batch)
        if outcome == "receipt lost":
            raise Unavailable("lost")
        return Receipt(spool=batch.spool, end=batch.end, accepted=len(batch.events))


def written(folder: Path, spool: str, count: int) -> int:
    writer = SpoolWriter(folder, spool)
    for number in range(count):
        writer.append([settled_record(UsageEvent(rid=f"{spool}-{number}", account_id="a").SerializeToString())])
    writer.close()
    return writer.end


def rids(ledger: Ledger) -> list[str]:
    return [UsageEvent.FromString(event).rid for batch in ledger.batches for event in batch.events]


async def test_every_event_of_every_spool_is_delivered_in_order_with_its_position(tmp_path: Path) -> None:
    ends = {spool: written(tmp_path, spool, 3) for spool in ("w0", "w1")}
    index, ledger = Index(tmp_path), Ledger()
    index.catch_up(0.0)
    assert await Shipper(index, ledger).ship_all()  # type: ignore[arg-type]
    assert sorted(rids(ledger)) == [f"w{w}-{n}" for w in (0, 1) for n in range(3)]
    assert {batch.spool: batch.end for batch in ledger.batches} == ends
    assert index.unshipped_count == 0


async def test_a_ledger_that_is_down_gets_everything_when_it_is_back(tmp_path: Path) -> None:
    written(tmp_path, "w0", 3)
    index, ledger = Index(tmp_path), Ledger()
    index.catch_up(0.0)
    ledger.outcomes = ["down", "receipt lost"]
    shipper = Shipper(index, ledger)  # type: ignore[arg-type]
    assert not await shipper.ship_all()
    assert not await shipper.ship_all()
    assert await shipper.ship_all()
    # Delivered twice, as one batch with one position: the ledger counts it once.
    assert rids(ledger) == ["w0-0", "w0-1", "w0-2"] * 2
    assert len({batch.end for batch in ledger.batches}) == 1
    assert await shipper.ship_all()
    assert len(ledger.batches) == 2
