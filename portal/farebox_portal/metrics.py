"""What the portal tells Prometheus. A registry for each app, so that two in one process do not share figures.

No label holds a customer, a key or a path as it was called: routes are named by their template.
"""

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

UNMATCHED = "unmatched"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "farebox_portal_requests_total", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "farebox_portal_request_duration_seconds",
            "From the request's head to the answer's end",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        build = Gauge("farebox_portal_build_info", "Always 1", ["version"], registry=self.registry)
        build.labels(version=version("farebox")).set(1)
