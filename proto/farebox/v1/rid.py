"""Request ids: ``<first byte of the request reached Envoy, hex ms>-<Envoy's stream id>``.

Time first, so that ledger rows arrive almost sorted; Envoy's 64-bit stream id makes it unique. The instant decides the
billing period, so plugin and portal read it from the id alike.
"""

from collections.abc import Iterator

from farebox.v1.usage_pb2 import UsageEvent


def make_rid(admitted_at_ms: int, stream_id: str) -> str:
    return f"{admitted_at_ms:x}-{stream_id}"


def rid_time_ms(rid: str) -> int:
    """Raises ValueError for a text that is no request id."""
    return int(rid.partition("-")[0], 16)


def singles(event: UsageEvent) -> Iterator[UsageEvent]:
    """The event as one of each of its requests."""
    alike = list(event.alike)
    if not alike:
        yield event
        return
    for rid in (event.rid, *alike):
        one = UsageEvent()
        one.CopyFrom(event)
        one.ClearField("alike")
        one.rid = rid
        if rid != event.rid:
            one.admitted_at_ms = rid_time_ms(rid)
        yield one
