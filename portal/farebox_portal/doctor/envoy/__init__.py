"""A configuration of Envoy, read for the ways past the till: Envoy accepts each of them, and it costs money or keys.

document   YAML or JSON → plain dicts with the names of Envoy's own documentation; what of it is ours
filters    what is asked, and what happens when nobody answers
feeds      how it is known what a request used
routes     which policy each route is sold under, and which are free
"""

from collections.abc import Iterator, Mapping

from farebox_portal.doctor.envoy.document import Bootstrap
from farebox_portal.doctor.envoy.feeds import lint_feeds
from farebox_portal.doctor.envoy.filters import lint_clusters, lint_manager
from farebox_portal.doctor.envoy.routes import PolicyNeeds, lint_routes
from farebox_portal.doctor.report import Finding, fail


def lint(bootstrap: Bootstrap, policies: Mapping[str, PolicyNeeds] | None, free: frozenset[str]) -> Iterator[Finding]:
    """Pure. `policies`: by key, those that there are (None: not known); `free`: routes that are meant to be."""
    if not bootstrap.managers:
        yield fail("no listener serves HTTP", "`farebox envoy-config` prints a configuration that does")
    for manager in bootstrap.managers:
        yield from lint_manager(manager)
        yield from lint_feeds(bootstrap, manager)
        yield from lint_routes(manager, policies, free)
    yield from lint_clusters(bootstrap)
