"""An event loop whose clock is virtual: it jumps to the next timer whenever nothing is ready.

Everything that the plugin does with time (timeouts, retries, graces) runs unchanged, minutes in milliseconds, and the
same seed gives the same order of callbacks on every machine. There is no input from outside; what a process would get
from a socket comes from a callback at a scheduled instant.
"""

import asyncio
import selectors
from typing import Any


class Stuck(Exception):
    """Nothing is ready and no timer is set: the simulated world waits for something that cannot come."""


class _Jump(selectors.SelectSelector):
    """Where an ordinary loop waits for its sockets, this one moves its clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck
        self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`asyncio.Runner(loop_factory=VirtualLoop)`."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now
