"""The benchmark: everything of this folder's gateway, memory and starts, in one run.

    cd tests && ../.venv/bin/python -m bench [--only transports,routes,memory,starts] [--quick] [--save]

Prints what it measures as it goes, then the design's targets beside it, and every ratio that is worse by more than a
quarter than in the committed figures: then the exit status is 1, as it is when the ledger was wrong. Table, chart and
figures lie in .farebox/bench afterwards; --save puts them into tests/bench, where they are the committed ones.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench.chart import chart
from bench.compare import regressions
from bench.cpu import machine
from bench.facts import facts
from bench.figures import COMMITTED, Figure, Figures, Row, load, save
from bench.gateway import Plan, routes, transports
from bench.load import require_wrk
from bench.memory import memory
from bench.starts import starts
from bench.table import brief, markdown, show_figure, show_head, show_targets
from bench.targets import ratios, targets

Section = Callable[[Plan], tuple[tuple[Row, ...], tuple[Figure, ...]]]
SECTIONS: dict[str, Section] = {"transports": transports, "routes": routes, "memory": memory, "starts": starts}
QUICK = Plan(
    seconds=1, passes=1, warm_up_s=1, connections=(1, 64), accounts=300, keys=10_000, lone_accounts=0, starts=1
)
RESULTS = Path(__file__).parents[2] / ".farebox" / "bench"
README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by commas")
    parser.add_argument("--quick", action="store_true", help="two minutes; enough to see that everything runs")
    parser.add_argument("--save", action="store_true", help="make this run the committed one")
    parser.add_argument("--seconds", type=int, help="of one pass over one point")
    parser.add_argument("--connections", help="by commas")
    parser.add_argument("--transports", help="by commas")
    options = parser.parse_args(words)
    sections = options.only.split(",")
    if unknown := set(sections) - SECTIONS.keys():
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}")
    plan = planned(options)
    if options.save and (plan != Plan() or set(sections) != SECTIONS.keys()):
        parser.error("--save: only a whole run can be committed")
    require_wrk()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # as Ctrl-C: nothing may be left running
    figures = run(sections, plan)
    status = report(figures, COMMITTED.parent if options.save else RESULTS)
    if options.save:
        README.write_text(with_figures(README.read_text(encoding="utf-8"), load(COMMITTED)), encoding="utf-8")
    sys.exit(status)


def planned(options: argparse.Namespace) -> Plan:
    """The options as a plan."""
    plan = QUICK if options.quick else Plan()
    if options.seconds is not None:
        plan = replace(plan, seconds=options.seconds)
    if options.connections is not None:
        plan = replace(plan, connections=tuple(int(count) for count in options.connections.split(",")))
    if options.transports is not None:
        plan = replace(plan, transports=tuple(options.transports.split(",")))
    return plan


def run(sections: Sequence[str], plan: Plan) -> Figures:
    """Measure these sections, one after the other."""
    began = datetime.now(UTC)
    known, before = facts(began), machine()
    print(" · ".join(f"{name} {value}" for name, value in known.items()), flush=True)
    rows: list[Row] = []
    singles: list[Figure] = []
    for name in (name for name in SECTIONS if name in sections):
        show_head(name, has_rows=SECTIONS[name] in (transports, routes))
        new_rows, new_singles = SECTIONS[name](plan)
        for figure in new_singles:
            show_figure(figure)
        rows += new_rows
        singles += new_singles
    took_s = (datetime.now(UTC) - began).total_seconds()
    known |= {"stolen by the hypervisor": f"{machine().stolen_since(before):.1%}", "took": f"{took_s:.0f} s"}
    settings = {"seconds a point": str(plan.seconds * plan.passes), "Envoy's concurrency": "1"}
    return Figures(known, tuple(rows), tuple(singles), ratios(rows, singles), settings)


def report(figures: Figures, folder: Path, committed: Path = COMMITTED) -> int:
    """Write and say what was found; the exit status."""
    promised = targets(figures.rows)
    if any(target.measured is not None for target in promised):
        show_targets(promised)
    faults = [f"ledger: {row.case}, {row.connections} connections: {row.fault}" for row in figures.rows if row.fault]
    if committed.exists():
        worse = regressions(load(committed).ratios, figures.ratios)
        faults += [f"worse than the committed figures: {line}" for line in worse]
    else:
        print("\nthere are no committed figures to compare with (--save)")
    folder.mkdir(parents=True, exist_ok=True)
    save(figures, folder / COMMITTED.name)
    (folder / "figures.md").write_text(markdown(figures, promised), encoding="utf-8")
    (folder / "figures.svg").write_text(chart(figures), encoding="utf-8")
    print(f"\n{figures.facts['took']}; table, chart and figures are in {folder}")
    print("".join(f"{fault}\n" for fault in faults), end="")
    return 1 if faults else 0


def with_figures(text: str, figures: Figures) -> str:
    """The README with these figures between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{brief(figures, targets(figures.rows))}{END}{after}"


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
