"""How fast the jobs ask the provider. Stripe allows 100 requests a second live and 25 in a sandbox, and 25 for each
kind of request; a month's end is no hurry, and what people wait for has the rest.

Source: docs.stripe.com/rate-limits (2026-10).
"""

import threading
import time
from collections.abc import Callable
from datetime import timedelta

BACK_OFF_MAX = timedelta(minutes=5)
LIVE_PER_S = 8.0
TEST_PER_S = 4.0


def back_off(troubles: int) -> timedelta:
    """Until the next try, after so many in a row of which nobody knows what came."""
    return min(timedelta(seconds=2 ** min(troubles, 10)), BACK_OFF_MAX)


class Pace:
    """At most `per_s` a second for all threads of the process together: whoever comes too soon waits for its turn."""

    def __init__(
        self,
        per_s: float,
        seconds: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._every_s = 1 / per_s
        self._seconds = seconds
        self._sleep = sleep
        self._next_s = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        with self._lock:
            now_s = self._seconds()
            turn_s = max(now_s, self._next_s)
            self._next_s = turn_s + self._every_s
        if turn_s > now_s:
            self._sleep(turn_s - now_s)
