"""The parts of the benchmark that compute and write. What it measures, only a run tells; those are no tests."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from hypothesis import given
from hypothesis import strategies as st

from bench import pieces, targets
from bench.__main__ import BEGIN, END, README, main, report, with_figures
from bench.answers import SSE_ANSWER, SSE_EVENTS, UNITS
from bench.cases import ANSWERS, config, strangers
from bench.chart import chart
from bench.compare import regressions, worse_by
from bench.figures import COMMITTED, Figure, Figures, Ratio, Row, load, merged, save
from bench.gateway import books
from bench.load import Answered, read
from bench.table import markdown
from farebox.v1.digest import is_well_formed

ROW = Row("transports", targets.H2, 64, 60_000, 20_000, 2.5, 9.0, 30.0, 14.0, 3.0, 7.0, 12.0)


def row(section: str, case: str, connections: int = 64, **fields: float | str) -> Row:
    return replace(ROW, section=section, case=case, connections=connections, **fields)  # type: ignore[arg-type]


ROWS = (
    row("transports", targets.ALONE, 1, p50_ms=0.1),
    row("transports", targets.ALONE, rps=60_000, plugin_us=0, envoy_us=15.0),
    row("transports", targets.GRPCIO, rps=3_500, plugin_us=300.0),
    row("transports", targets.NOTHING_H2, rps=24_000, plugin_us=5.0),
    row("transports", targets.H2, 1, p50_ms=0.35),
    ROW,
    row("routes", targets.COUNT, plugin_us=14.0),
    row("routes", targets.PIECES, plugin_us=14.0 + 45 * 10.0, messages=45.0, rps=1_000),
    row("routes", 'refused: <quota> & "more"', plugin_us=7.0),
)
FIGURES = Figures(
    facts={"took": "60 s", "processor": "a <fast> one", "date": "2026-03-10"},
    rows=ROWS,
    singles=(Figure("memory", "worker at rest", 57.25, "MB"), Figure("memory", "grown : at rest", 3.5, "times")),
    ratios=targets.ratios(ROWS, [Figure("memory", "grown : at rest", 3.5, "times")]),
)


@pytest.mark.parametrize(
    ("better", "now", "is_reported"),
    [
        ("higher", 7.4, True),  # 26 % worse than 10
        ("higher", 7.6, False),  # 24 % worse
        ("higher", 12.6, False),  # better
        ("lower", 12.6, True),
        ("lower", 12.4, False),
        ("lower", 7.4, False),
    ],
)
def test_a_ratio_that_is_worse_by_more_than_a_quarter_is_reported(better: str, now: float, is_reported: bool) -> None:
    then = Ratio("h2 : grpcio", 10.0, better)  # type: ignore[arg-type]
    lines = regressions([then], [replace(then, value=now)])
    assert len(lines) == is_reported
    assert all("h2 : grpcio" in line and "26% worse" in line for line in lines)


@given(st.floats(0.001, 1000), st.floats(0.001, 1000))
def test_what_is_worse_one_way_is_better_the_other_way(then: float, now: float) -> None:
    higher, lower = (worse_by(Ratio("r", then, better), Ratio("r", now, better)) for better in ("higher", "lower"))
    assert higher == -lower


def test_a_ratio_that_only_one_of_the_two_runs_has_is_no_regression() -> None:
    old, new = Ratio("gone", 10.0, "higher"), Ratio("new", 0.1, "higher")
    assert regressions([old], [new]) == []


def test_figures_come_back_from_their_file_with_the_same_ratios(tmp_path: Path) -> None:
    save(FIGURES, tmp_path / "figures.json")
    found = load(tmp_path / "figures.json")
    assert [row.case for row in found.rows] == [row.case for row in FIGURES.rows]
    assert found.singles == FIGURES.singles
    assert regressions(FIGURES.ratios, found.ratios) == []
    assert [ratio.name for ratio in found.ratios] == [ratio.name for ratio in FIGURES.ratios]


def test_the_chart_is_well_formed_and_has_every_case_and_a_bar_for_every_throughput() -> None:
    drawing = ElementTree.fromstring(chart(FIGURES))
    texts = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    for each in ROWS:
        assert each.case in texts
        assert (f"{each.rps:,.0f}") in texts
    bars = list(drawing.iter("{http://www.w3.org/2000/svg}rect"))
    height = float(drawing.attrib["height"])
    assert all(float(bar.attrib["width"]) >= 0 and float(bar.attrib["y"]) < height for bar in bars)


def test_the_longest_bar_of_the_chart_is_the_largest_number() -> None:
    rows = (row("transports", "slow", rps=100.0), row("transports", "fast", rps=400.0))
    drawing = ElementTree.fromstring(chart(Figures({}, rows)))
    slow, fast = list(drawing.iter("{http://www.w3.org/2000/svg}rect"))[:2]
    assert float(fast.attrib["width"]) == pytest.approx(4 * float(slow.attrib["width"]))


def test_the_table_has_every_case_figure_target_and_ratio() -> None:
    text = markdown(FIGURES, targets.targets(ROWS))
    for name in (*(each.case for each in ROWS), "worker at rest", *(ratio.name for ratio in FIGURES.ratios)):
        assert f"| {name} |" in text
    assert text.count(" | met |") == 6


def test_the_table_says_what_failed_and_what_the_ledger_lacks() -> None:
    text = markdown(Figures({}, (replace(ROW, failed=3, fault="7 are booked, not 8 to 9"),)), [])
    assert "3 FAILED" in text
    assert "7 are booked, not 8 to 9" in text


@pytest.mark.parametrize(
    ("case", "connections", "worse", "name"),
    [
        (targets.H2, 64, {"rps": 17_000}, "on grpcio"),
        (targets.H2, 64, {"rps": 19_000}, "decides nothing"),
        (targets.H2, 64, {"plugin_us": 15.1}, "plugin"),
        (targets.H2, 64, {"valkey_us": 8.1}, "Valkey"),
        (targets.H2, 1, {"p50_ms": 0.41}, "median"),
        (targets.PIECES, 64, {"plugin_us": 14 + 45 * 12.1}, "ext_proc"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_each_target_is_missed_by_itself(case: str, connections: int, worse: dict[str, float], name: str) -> None:
    rows = [replace(each, **worse) if (each.case, each.connections) == (case, connections) else each for each in ROWS]  # type: ignore[arg-type]
    (target,) = (target for target in targets.targets(rows) if name in target.name)
    assert not target.is_met
    assert target.measured is not None


@pytest.mark.parametrize(("failed", "is_measured"), [(60, True), (61, False)])  # of 60 000
def test_a_row_whose_requests_failed_meets_no_target(failed: int, is_measured: bool) -> None:
    rows = [replace(each, failed=failed) if each.case == targets.H2 else each for each in ROWS]
    found = {target.name: target for target in targets.targets(rows)}
    of_h2 = [target for name, target in found.items() if "ext_proc" not in name]
    assert [target.measured is not None for target in of_h2] == [is_measured] * 5
    assert [target.is_met for target in of_h2] == [is_measured] * 5


def test_passes_over_one_point_count_the_same_and_keep_their_faults() -> None:
    (found,) = merged([replace(ROW, rps=100.0, requests=10, failed=1), replace(ROW, rps=300.0, requests=30, fault="x")])
    assert (found.rps, found.requests, found.failed, found.fault) == (200.0, 40, 1, "x")
    assert len(merged([ROW, replace(ROW, connections=1), replace(ROW, section="routes")])) == 3


LINE = (
    '{"requests": 100, "duration_us": 2000000, "p50_us": 1500, "p99_us": 9000,'
    ' "errors": 90, "lost": 2, "unexpected": 7}'
)


@pytest.mark.parametrize(("expected", "failed"), [(200, 92), (403, 9)])
def test_a_refusal_is_a_failure_only_where_an_answer_is_expected(expected: int, failed: int) -> None:
    assert read(LINE, expected) == Answered(100, 2.0, 1.5, 9.0, failed)


@pytest.mark.parametrize(
    ("booked", "is_wrong"),
    [(99 * 5, True), (100 * 5, False), (103 * 5, False), (103 * 5 + 1, True)],
)
def test_the_ledger_must_have_what_was_served_and_no_more_than_was_let_in(booked: int, is_wrong: bool) -> None:
    assert bool(books({"input_tokens": 5}, served=100, let_in=103, gained={"input_tokens": booked})) == is_wrong


def test_a_refused_request_must_not_be_booked() -> None:
    assert books({}, served=0, let_in=0, gained={"api_requests": 1}) != ""
    assert books({}, served=0, let_in=0, gained={"api_requests": 0}) == ""


def test_the_benchs_routes_fit_the_shipped_configuration() -> None:
    text = config(("/tmp/w0.sock",), "127.0.0.1:9")
    for answer in ANSWERS:
        assert answer.route.path in text
        assert answer.route.policy in UNITS


def test_an_answer_in_pieces_is_the_same_answer_an_event_a_frame() -> None:
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    names = ((":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "x"))
    client.send_headers(1, names, end_stream=True)
    greeting = pieces.frame(pieces.SETTINGS, 0, 0, b"")
    events = client.receive_data(greeting + pieces.answer(1))
    received = [event.data for event in events if isinstance(event, DataReceived)]
    assert received == list(SSE_EVENTS)
    assert b"".join(received).decode() == SSE_ANSWER
    assert isinstance(events[-1], StreamEnded)


def test_strangers_keys_are_well_formed_and_all_different() -> None:
    keys = strangers(50)
    assert len(set(keys)) == 50
    assert all(map(is_well_formed, keys))


@pytest.mark.parametrize(
    ("rps", "fault", "status", "said"),
    [
        (20_000.0, "", 0, "table, chart and figures"),
        (14_000.0, "", 1, "worse than the committed figures: requests/s, Farebox on h2 : Farebox on grpcio"),
        (20_000.0, "7 are booked, not 8 to 9", 1, "ledger: Farebox on h2, 64 connections: 7 are booked"),
    ],
    ids=["as before", "slower", "wrong books"],
)
def test_a_run_ends_badly_when_it_is_slower_than_the_committed_one_or_the_books_are_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rps: float, fault: str, status: int, said: str
) -> None:
    committed = tmp_path / "committed.json"
    save(FIGURES, committed)
    rows = tuple(replace(each, rps=rps, fault=fault) if each is ROW else each for each in ROWS)
    now = replace(FIGURES, rows=rows, ratios=targets.ratios(rows, FIGURES.singles))
    assert report(now, tmp_path / "results", committed) == status
    assert said in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "figures.json",
        "figures.md",
        "figures.svg",
    ]


def test_without_committed_figures_a_run_says_so_and_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(FIGURES, tmp_path / "results", tmp_path / "none.json") == 0
    assert "no committed figures" in capsys.readouterr().out


def test_only_a_whole_run_can_be_committed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--quick", "--save"])
    assert ended.value.code == 2
    assert "only a whole run" in capsys.readouterr().err


def test_the_readme_has_the_committed_figures_and_what_they_promise() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_figures(text, load(COMMITTED)) == text
    assert "| not met |" in text or "| met |" in text


def test_what_the_readme_shows_is_the_transports_at_64_connections() -> None:
    lines = with_figures(f"# Title\n{BEGIN}old\n{END}after", FIGURES).splitlines()
    assert lines[0] == "# Title"
    assert "| Farebox on h2 | 20000 | 2.50 | 9.00 | 14.0 | 30.0 | 7.0 | 0.35 |" in lines
    assert "| CPU a request, Valkey | ≤ 8 µs | 7 µs | met |" in lines
    assert lines[-1] == "after"
    assert "old" not in lines
