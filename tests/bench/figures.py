"""What a run has measured, as data: the rows, the single figures, the ratios, and the machine they come from."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Literal

COMMITTED = Path(__file__).with_name("figures.json")


@dataclass(frozen=True)
class Row:
    """One case at one number of connections; CPU in microseconds a request."""

    section: str
    case: str
    connections: int
    requests: int
    rps: float
    p50_ms: float
    p99_ms: float
    envoy_us: float
    plugin_us: float  # with the keeper
    keeper_us: float  # of the plugin's: the process that ships the spools, off the request's path
    valkey_us: float
    portal_us: float
    messages: float = 0.0  # of ext_proc, a request
    failed: int = 0  # another answer than the expected one, or none
    fault: str = ""  # what the ledger has and should not, or the other way round


@dataclass(frozen=True)
class Figure:
    """A single number."""

    section: str
    name: str
    value: float
    unit: str


@dataclass(frozen=True)
class Ratio:
    """One measured thing by another of the same run: what can be compared between machines."""

    name: str
    value: float
    better: Literal["higher", "lower"]


@dataclass(frozen=True)
class Figures:
    facts: dict[str, str]
    rows: tuple[Row, ...] = ()
    singles: tuple[Figure, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)


def merged(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows of the same case and connections as one, in the order of the first: means, each pass counting the same."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.section, row.case, row.connections), []).append(row)
    return tuple(_mean(group) for group in groups.values())


def _mean(rows: list[Row]) -> Row:
    names = ("rps", "p50_ms", "p99_ms", "envoy_us", "plugin_us", "keeper_us", "valkey_us", "portal_us", "messages")
    means = {name: mean(getattr(row, name) for row in rows) for name in names}
    faults = "; ".join(row.fault for row in rows if row.fault)
    counts = {"requests": sum(row.requests for row in rows), "failed": sum(row.failed for row in rows)}
    return replace(rows[0], fault=faults, **counts, **means)  # type: ignore[arg-type]


def save(figures: Figures, file: Path) -> None:
    """As JSON, numbers rounded to four digits: it is read by people too."""
    document = _rounded(asdict(figures))
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(file: Path) -> Figures:
    document = json.loads(file.read_text(encoding="utf-8"))
    return Figures(
        facts=document["facts"],
        rows=tuple(Row(**row) for row in document["rows"]),
        singles=tuple(Figure(**each) for each in document["singles"]),
        ratios=tuple(Ratio(**each) for each in document["ratios"]),
        settings=document["settings"],
    )


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < 1000 else round(value)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return value
