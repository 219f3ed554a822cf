"""What can be made to go wrong, once or often: switches in a queue, each for the requests that it matches.

    drop_before    no effect, no answer: the connection is closed
    drop_after     the effect, its answer kept, but no answer: a timeout after the effect
    late           the effect comes after `ms`, when the client may be gone; the key is in use until then
    slow           the effect at once, the answer after `ms`
    stored_500     500, kept under the key; with the effect, unless `effect` is false
    bad_gateway    502 that is not Stripe's JSON; with the effect, unless `effect` is false
    lock_timeout   429 `lock_timeout`, no effect, kept under the key
    rate_limit     429 `rate_limit`, no effect, not kept
    conflict_409   409 `idempotency_key_in_use`, no effect, not kept

`match` is a method and a path, in which `*` stands for one part: "POST /v1/invoices/*/pay". A switch begins with the
`nth` matching request and serves `times` of them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from farebox_portal.standin.idempotency import in_use
from farebox_portal.standin.wire import Document, Refused

MODES = (
    "drop_before", "drop_after", "late", "slow", "stored_500", "bad_gateway", "lock_timeout", "rate_limit",
    "conflict_409",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    mode: str
    match: str = "*"
    nth: int = 1
    times: int = 1
    ms: int = 0
    effect: bool = True

    def matches(self, method: str, path: str) -> bool:
        if self.match == "*":
            return True
        return re.fullmatch(re.escape(self.match).replace(r"\*", "[^/]+"), f"{method} {path}") is not None


class Faults:
    def __init__(self) -> None:
        self.queue: list[Fault] = []

    def add(self, given: Mapping[str, Any]) -> Fault:
        """Raises ValueError for a switch that there is not."""
        if given.get("mode") not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}")
        unknown = set(given) - set(Fault.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        for name in ("nth", "times", "ms"):
            if not isinstance(given.get(name, 1), int) or given.get(name, 1) < 0:
                raise ValueError(f"{name} is a number")
        fault = Fault(**given)
        self.queue.append(fault)
        return fault

    def take(self, method: str, path: str) -> Fault | None:
        """The one that this request gets. Counts the request for all others that match it."""
        taken = None
        left = []
        for fault in self.queue:
            if not fault.matches(method, path):
                left.append(fault)
            elif fault.nth > 1:
                left.append(replace(fault, nth=fault.nth - 1))
            elif taken is None:
                taken = fault
                if fault.times > 1:
                    left.append(replace(fault, times=fault.times - 1))
            else:
                left.append(fault)
        self.queue = left
        return taken


def refusal_before(fault: Fault) -> Refused | None:
    """What is answered in the place of an operation that never begins, and is not kept."""
    if fault.mode == "rate_limit":
        return Refused(
            429,
            "Request rate limit exceeded.",
            code="rate_limit",
            headers={"Stripe-Should-Retry": "false", "Stripe-Rate-Limited-Reason": "global-rate"},
        )
    return in_use() if fault.mode == "conflict_409" else None


def lock_timeout() -> Refused:
    return Refused(
        429,
        "This object cannot be accessed right now because another API request or Stripe process is currently accessing "
        "it.",
        code="lock_timeout",
        headers={"Stripe-Should-Retry": "true"},
    )


def stored_500() -> Refused:
    return Refused(
        500,
        "An unknown error occurred",
        error_type="api_error",
        headers={"Stripe-Should-Retry": "false"},
    )


def describe(queue: list[Fault]) -> list[Document]:
    return [vars(fault) for fault in queue]
