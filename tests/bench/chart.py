"""Figures as bars: one SVG, written by hand, that reads on a light page and on a dark one.

Nothing is painted behind the bars, and text and colours are of middle brightness, so that both backgrounds do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.figures import Figures, Row
from bench.targets import AT

WIDTH, LABELS, BARS = 920, 250, 560  # pixels: all, the names on the left, the longest bar
BAR, GAP, TITLE, FONT = 13, 9, 34, 12
TEXT, COLOURS = "#6e7781", ("#4c8bf5", "#e8833a", "#2fa36b", "#a06cd5")


@dataclass(frozen=True)
class Panel:
    """``groups``: a name and its bars, series -> value; drawn in this order."""

    title: str
    groups: Sequence[tuple[str, Mapping[str, float]]]


def chart(figures: Figures) -> str:
    """An SVG document of all panels that there are figures for."""
    parts: list[str] = []
    top = 0
    for panel in filter(lambda panel: panel.groups, panels(figures)):
        drawn, height = _panel(panel, top)
        parts += drawn
        top += height
    facts = " · ".join(figures.facts[name] for name in ("processor", "date") if name in figures.facts)
    parts.append(_text(0, top + FONT, f"{facts} · ratios within one run count, absolute figures are this machine's"))
    size = f'width="{WIDTH}" height="{top + 2 * FONT}" viewBox="0 0 {WIDTH} {top + 2 * FONT}"'
    style = f'font-family="system-ui, sans-serif" font-size="{FONT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "\n</svg>\n"


def panels(figures: Figures) -> list[Panel]:
    """Throughput by connections, and who spends what a request; of the transports, then of the routes."""
    found = []
    for section, by in (("transports", "by connections"), ("routes", f"by route, {AT} connections")):
        rows = [row for row in figures.rows if row.section == section]
        found.append(Panel(f"Requests/s {by}", _by_case(rows)))
        spent = [(row.case, _spent(row)) for row in rows if row.connections == AT]
        found.append(Panel(f"CPU µs a request, {AT} connections", spent))
    return found


def _by_case(rows: Sequence[Row]) -> list[tuple[str, Mapping[str, float]]]:
    cases = dict.fromkeys(row.case for row in rows)
    return [(case, {str(row.connections): row.rps for row in rows if row.case == case}) for case in cases]


def _spent(row: Row) -> Mapping[str, float]:
    spent = {"Envoy": row.envoy_us, "plugin": row.plugin_us, "Valkey": row.valkey_us}
    return {name: value for name, value in spent.items() if value}


def _panel(panel: Panel, top: int) -> tuple[list[str], int]:
    """Its elements, and how high it is."""
    most = max((value for _, bars in panel.groups for value in bars.values()), default=0) or 1
    series = list(dict.fromkeys(name for _, bars in panel.groups for name in bars))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(series)}
    parts = [f'<g font-weight="bold">{_text(0, top + 20, panel.title)}</g>']
    for number, name in enumerate(series if len(series) > 1 else []):
        left = LABELS + number * 110
        parts += [_bar(left, top + 10, BAR, colours[name]), _text(left + BAR + 5, top + 20, name)]
    at = top + TITLE
    for label, bars in panel.groups:
        parts.append(_text(0, at + FONT - 1, label))
        for name, value in bars.items():
            length = round(value / most * BARS, 1)
            parts += [
                _bar(LABELS, at, length, colours[name]),
                _text(LABELS + length + 5, at + FONT - 2, _number(value)),
            ]
            at += BAR + 1
        at += GAP
    return parts, at - top + GAP


def _bar(left: float, top: float, length: float, colour: str) -> str:
    return f'<rect x="{left}" y="{top}" width="{length}" height="{BAR}" fill="{colour}"/>'


def _text(left: float, baseline: float, text: str) -> str:
    return f'<text x="{left}" y="{baseline}" fill="{TEXT}">{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
