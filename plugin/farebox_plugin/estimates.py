"""How much to hold for a quantity that only the response will tell: what such responses used lately.

Held too little, parallel requests overrun a limit by the difference; held too much, a customer near the limit is
refused early. The largest of the last responses under the same policy errs to the safe side and forgets an outlier.
"""

from collections import defaultdict, deque
from collections.abc import Mapping

REMEMBERED = 64


class RecentUse:
    """Per policy and meter, the quantities of the last responses that this worker settled."""

    def __init__(self) -> None:
        self._recent: dict[tuple[str, str], deque[int]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._high: dict[str, dict[str, int]] = defaultdict(dict)

    def learn(self, policy: str, meter: str, quantity: int) -> None:
        recent = self._recent[(policy, meter)]
        recent.append(quantity)
        self._high[policy][meter] = max(recent)

    def of(self, policy: str) -> Mapping[str, int]:
        """Meter -> units to expect; empty before the first response."""
        return self._high.get(policy, {})
