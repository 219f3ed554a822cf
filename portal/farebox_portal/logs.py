"""Log lines: JSON on stderr, one each, ready for whatever collects them.

Tracebacks are plain text on purpose: structlog's default prints local variables, and those hold tokens.
"""

import logging
import sys

import structlog


def configure_logs() -> None:
    """Set up the logs of this process. Called by commands, never at import."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
