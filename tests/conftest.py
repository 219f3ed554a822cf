"""For all tests, before anything is imported."""

import os

import pytest
from hypothesis import settings

# grpcio's fork handlers abort a child that another test forks from the same process to start a program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# No test judges speed: a busy machine is no finding. And what a run says is about the change that it was started for:
# its examples are the same each time, until a test changes. Who looks for what nobody has thought of asks for others.
IS_SEARCH = bool(os.environ.get("FAREBOX_TEST_SEARCH"))
settings.register_profile("farebox", deadline=None, derandomize=not IS_SEARCH)
settings.load_profile("farebox")


NOT_RUN = "NOT RUN AGAINST STRIPE"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line at the end for what `stripe_live` skips: reasons are not shown otherwise, and this one should be."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NOT_RUN in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"{NOT_RUN}: {len(skipped)} questions of tests/stripe_live; set FAREBOX_STRIPE_TEST_KEY", yellow=True
        )
