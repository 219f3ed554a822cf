"""What operators see of the plugin: log lines on stderr, and /healthz, /readyz, /metrics of the keeper.

Nothing is logged for a request: at thousands a second the metrics tell more, and cost less.
"""

import logging
import sys
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


def configure_logging() -> None:
    """One line an event on stderr: key=value for people, JSON when it is no terminal."""
    renderer: structlog.types.Processor
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@dataclass(frozen=True, slots=True)
class Gauges:
    """The state of one plugin at one moment."""

    totals: dict[str, Tally[str]]  # part -> what -> count, over all workers since the start
    workers: int
    restarts: int
    open_requests: int
    unshipped_events: int
    rebuilds: int
    is_ready: bool


class _Collector(Collector):
    def __init__(self, read: Callable[[], Gauges]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        now = self._read()
        for part, tally in now.totals.items():
            family = CounterMetricFamily(f"farebox_{part}", f"Counts of {part}, by result", labels=["result"])
            for result, count in tally.items():
                family.add_metric([result], count)
            yield family
        yield GaugeMetricFamily("farebox_workers", "Workers that are running", now.workers)
        yield CounterMetricFamily("farebox_worker_restarts", "Workers that died and were started again", now.restarts)
        yield GaugeMetricFamily("farebox_open_requests", "Requests without a known end", now.open_requests)
        yield GaugeMetricFamily(
            "farebox_unshipped_events", "Usage that the ledger does not have yet", now.unshipped_events
        )
        yield CounterMetricFamily("farebox_account_rebuilds", "Accounts rebuilt from ledger and spools", now.rebuilds)


def serve_metrics(port: int, read: Callable[[], Gauges]) -> ThreadingHTTPServer:
    """Serve on all addresses of this host until `shutdown()`. Raises OSError when the port is taken."""
    registry = CollectorRegistry()
    registry.register(_Collector(read))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._reply(200, generate_latest(registry), "text/plain; version=0.0.4")
            elif self.path in ("/healthz", "/readyz"):
                is_fine = self.path == "/healthz" or read().is_ready
                self._reply(200 if is_fine else 503, b"ok\n" if is_fine else b"not ready\n", "text/plain")
            else:
                self._reply(404, b"try /healthz, /readyz or /metrics\n", "text/plain")

        def _reply(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes are not news."""

    server = ThreadingHTTPServer(("", port), Handler)
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
