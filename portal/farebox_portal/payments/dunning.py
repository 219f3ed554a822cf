"""When a payment that failed is tried again: on days counted from the first failure, and then it is given up. Pure."""

from datetime import datetime, timedelta

AFTER_DAYS = (1, 3, 5, 7)


def next_try(failed_at: datetime, now: datetime) -> datetime | None:
    """The next one after a try at `now` failed; None: that was the last. Days that passed unused are not made up."""
    return next((at for days in AFTER_DAYS if (at := failed_at + timedelta(days=days)) > now), None)


def ends_at(failed_at: datetime) -> datetime:
    return failed_at + timedelta(days=AFTER_DAYS[-1])
