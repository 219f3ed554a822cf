"""The stand-in's time: the wall's, put ahead on request. Moments on the wire are whole seconds since the epoch."""

from farebox_portal.clock import Clock, to_ms


class StandinClock:
    def __init__(self, wall: Clock) -> None:
        self._wall = wall
        self.ahead_ms = 0

    def now_ms(self) -> int:
        return self.wall_ms() + self.ahead_ms

    def now(self) -> int:
        return self.now_ms() // 1000

    def wall_ms(self) -> int:
        """Of the world outside: what a receiver holds a signature's age against."""
        return to_ms(self._wall.now())
