"""Figures as text: a row while it is measured, and the whole in Markdown."""

from bench.figures import Figure, Figures, Row
from bench.targets import AT, Target

_HEAD = ("case", "conns", "req/s", "p50 ms", "p99 ms", "Envoy µs", "plugin µs", "keeper µs", "Valkey µs", "portal µs")


def show_row(row: Row) -> None:
    """One line as soon as it is known."""
    case, *numbers = cells(row)
    print(f"{case:34}" + "".join(f"{number:>10}" for number in numbers) + remarks(row), flush=True)


def show_head(section: str, *, has_rows: bool) -> None:
    case, *names = _HEAD
    titles = f"{case:34}" + "".join(f"{name:>10}" for name in names)
    print(f"\n{section}\n{titles}" if has_rows else f"\n{section}", flush=True)


def show_figure(figure: Figure) -> None:
    print(f"{figure.name:76}{number(figure.value):>10} {figure.unit}", flush=True)


def cells(row: Row) -> list[str]:
    spent = (row.envoy_us, row.plugin_us, row.keeper_us, row.valkey_us, row.portal_us)
    return [
        row.case,
        str(row.connections),
        f"{row.rps:.0f}",
        f"{row.p50_ms:.2f}",
        f"{row.p99_ms:.2f}",
        *(f"{each:.1f}" if each else "–" for each in spent),
    ]


def remarks(row: Row) -> str:
    """What does not fit a column; "" for most rows."""
    found = [f"{row.messages:.0f} messages"] if row.messages else []
    found += [f"{row.failed} FAILED"] if row.failed else []
    found += [f"LEDGER: {row.fault}"] if row.fault else []
    return "".join(f"  {each}" for each in found)


def markdown(figures: Figures, targets: list[Target]) -> str:
    """Everything of a run, to be read: machine, targets, rows, single figures, ratios."""
    parts = ["# What a decision costs\n", _machine(figures)]
    if targets:
        parts += ["\n## Targets\n", _table(("target", "wanted", "measured", ""), map(_target, targets))]
    for section in dict.fromkeys(row.section for row in figures.rows):
        rows = [row for row in figures.rows if row.section == section]
        lines = ([*cells(row)[:-1], cells(row)[-1] + remarks(row)] for row in rows)
        parts += [f"\n## {section}\n", _table(_HEAD, lines)]
    if figures.singles:
        singles = ((each.section, each.name, f"{number(each.value)} {each.unit}") for each in figures.singles)
        parts += ["\n## Single figures\n", _table(("section", "figure", "value"), singles)]
    if figures.ratios:
        ratios = ((each.name, number(each.value), f"{each.better} is better") for each in figures.ratios)
        parts += ["\n## Ratios\n", _table(("ratio", "value", ""), ratios)]
    return "\n".join(parts) + "\n"


def brief(figures: Figures, targets: list[Target]) -> str:
    """What the README shows: the transports at the connections that targets are judged at, and the targets."""
    head = ("behind Envoy", "req/s", "p50 ms", "p99 ms", "plugin µs", "Envoy µs", "Valkey µs", "p50 ms, 1 connection")
    alone_ms = {row.case: row.p50_ms for row in figures.rows if (row.section, row.connections) == ("transports", 1)}
    rows = []
    for row in figures.rows:
        if (row.section, row.connections) == ("transports", AT):
            case, _, rps, p50, p99, envoy_us, plugin_us, _, valkey_us, _ = cells(row)
            alone = f"{alone_ms[row.case]:.2f}" if row.case in alone_ms else "–"
            rows.append((case, rps, p50, p99, plugin_us, envoy_us, valkey_us, alone))
    parts = [_table(head, rows)]
    parts += [_table(("target", "wanted", "measured", ""), map(_target, targets))] if targets else []
    return "\n\n".join([*parts, f"{_machine(figures)}\n"])


def show_targets(targets: list[Target]) -> None:
    print("\ntargets")
    for target in targets:
        name, wanted, measured, verdict = _target(target)
        print(f"{name:58}{wanted:>14}{measured:>12}  {verdict}")


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _machine(figures: Figures) -> str:
    facts = figures.facts | figures.settings
    return " · ".join(f"{name} {value}" for name, value in facts.items())


def _target(target: Target) -> tuple[str, str, str, str]:
    wanted = f"{'≥' if target.is_least else '≤'} {number(target.bound)} {target.unit}".strip()
    if target.measured is None:
        return target.name, wanted, "–", "not measured, or requests failed"
    return (
        target.name,
        wanted,
        f"{number(target.measured)} {target.unit}".strip(),
        "met" if target.is_met else "not met",
    )


def _table(head: tuple[str, ...], rows: object) -> str:
    lines = [head, ("---",) * len(head), *rows]  # type: ignore[misc]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
