"""What the design promises of speed, beside what was measured; and the ratios by which runs are compared.

The absolute targets are those of the design's machine (2 cores, Envoy's concurrency 1). On another one they say little;
the ratios do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.figures import Figure, Ratio, Row

AT = 64  # connections at which throughput and CPU are judged
FAILED_MAX = 0.001  # share of a row's requests: beyond it, what was measured is not what was asked
ALONE, GRPCIO, H2 = "Envoy alone", "Farebox on grpcio", "Farebox on h2"
NOTHING_GRPCIO, NOTHING_H2 = "grpcio, decides nothing", "h2, decides nothing"
COUNT, PIECES = "count", "tokens, SSE in pieces"


@dataclass(frozen=True)
class Target:
    """A bound and what was measured; None: not in this run."""

    name: str
    bound: float
    is_least: bool
    measured: float | None
    unit: str = ""

    @property
    def is_met(self) -> bool:
        if self.measured is None:
            return False
        return self.measured >= self.bound if self.is_least else self.measured <= self.bound


class Rows:
    """Finds a row by its case and connections; what is missing gives None, also in what is computed from it."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = {(row.section, row.case, row.connections): row for row in rows}

    def of(self, section: str, case: str, field: str, connections: int = AT) -> float | None:
        """A field of a row whose requests were answered as they should be."""
        row = self._rows.get((section, case, connections))
        return None if row is None or row.failed > row.requests * FAILED_MAX else float(getattr(row, field))

    def share(self, section: str, case: str, by: str, field: str) -> float | None:
        top, bottom = self.of(section, case, field), self.of(section, by, field)
        return None if top is None or not bottom else top / bottom

    def cases(self, section: str) -> list[str]:
        return list(dict.fromkeys(case for each, case, _ in self._rows if each == section))


def targets(rows: Iterable[Row]) -> list[Target]:
    """In the order of the design's section on performance."""
    found = Rows(rows)
    p50, p50_alone = (found.of("transports", case, "p50_ms", 1) for case in (H2, ALONE))
    added_ms = None if p50 is None or p50_alone is None else p50 - p50_alone
    return [
        Target("requests/s, Farebox on h2 : on grpcio", 5, True, found.share("transports", H2, GRPCIO, "rps")),
        Target(
            "requests/s, Farebox on h2 : h2 decides nothing",
            0.8,
            True,
            found.share("transports", H2, NOTHING_H2, "rps"),
        ),
        Target("CPU a request, plugin with its keeper", 15, False, found.of("transports", H2, "plugin_us"), "µs"),
        Target("CPU a request, Valkey", 8, False, found.of("transports", H2, "valkey_us"), "µs"),
        Target("added to the median at 1 connection", 0.3, False, added_ms, "ms"),
        Target("CPU a message of ext_proc", 12, False, message_us(found), "µs"),
    ]


def message_us(found: Rows) -> float | None:
    """What a worker spends on a streamed answer beyond what it spends on a counted request, a message."""
    streamed, counted = _worker_us(found, PIECES), _worker_us(found, COUNT)
    messages = found.of("routes", PIECES, "messages")
    return None if streamed is None or counted is None or not messages else (streamed - counted) / messages


def _worker_us(found: Rows, case: str) -> float | None:
    plugin_us, keeper_us = (found.of("routes", case, field) for field in ("plugin_us", "keeper_us"))
    return None if plugin_us is None or keeper_us is None else plugin_us - keeper_us


def ratios(rows: Sequence[Row], singles: Iterable[Figure]) -> tuple[Ratio, ...]:
    """Every ratio that this run has both parts of."""
    found = Rows(rows)
    values: list[tuple[str, float | None, str]] = []
    for top, bottom in ((H2, GRPCIO), (H2, NOTHING_H2), (GRPCIO, NOTHING_GRPCIO), (H2, ALONE)):
        values.append((f"requests/s, {top} : {bottom}", found.share("transports", top, bottom, "rps"), "higher"))
    envoy_us = found.of("transports", ALONE, "envoy_us")
    for case in (GRPCIO, H2):
        for field, who in (("plugin_us", "plugin"), ("valkey_us", "Valkey"), ("envoy_us", "Envoy")):
            spent = found.of("transports", case, field)
            value = spent / envoy_us if spent is not None and envoy_us else None
            values.append((f"CPU, {who} of {case} : {ALONE}", value, "lower"))
    for case in found.cases("routes"):
        if case != COUNT:
            values.append((f"requests/s, {case} : {COUNT}", found.share("routes", case, COUNT, "rps"), "higher"))
            values.append((f"plugin's CPU, {case} : {COUNT}", found.share("routes", case, COUNT, "plugin_us"), "lower"))
    values += [(each.name, each.value, "lower") for each in singles if each.unit == "times"]
    return tuple(Ratio(name, value, better) for name, value, better in values if value)  # type: ignore[arg-type]
