"""A5: many streams at once on a limit of tokens or bytes, with and without the filter that ends them.

What a response will use nobody knows before it ends. Without the cut-off (`open`) every stream that was let in runs to
its end, so a limit is overrun by at most what the streams in flight use together: their number (bounded by the plan's
`concurrencyLimit`) times the longest one. With it (`capped`) a piece passes only when it is covered: the over-run is 0.
"""

import http.client
import json
import re
import time
from collections import Counter as Tally
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy import text

from faults.check import AMBIGUOUS, Customer
from faults.concurrency import a_card, phases
from faults.load import LOST, Answer, Question
from faults.run import PLENTY, REST_WITHIN_S, Run

TOKENS, BYTES = "output_tokens", "egress_bytes"
_TOKEN = re.compile(rb'"content":"[^"]')  # the sample upstream says one in each event
_REWRITTEN = (
    ("/v1/capped/", "/v1/"),
    ("/v1/open/", "/v1/"),
    ("/v1/cut/", "/v1/bytes/"),
    ("/v1/load/", "/v1/bytes/"),
)  # as the upstream knows these paths
_BILLED = text("SELECT quantity, flags FROM usage_events WHERE customer_id = :customer AND meter = :meter")


@dataclass(frozen=True)
class Streamed:
    """What a client got of one answer, whole or not."""

    path: str
    status: int
    body: bytes
    is_whole: bool

    @property
    def end(self) -> str:
        """How it ended: whole, cut, or the code of the refusal."""
        if self.status == 200:
            return "whole" if self.is_whole else "cut"
        refusal = json.loads(self.body) if self.body.startswith(b"{") else {}
        return str(refusal.get("code", self.status))

    def units(self, meter: str) -> int:
        if self.status != 200:
            return 0
        return len(_TOKEN.findall(self.body)) if meter == TOKENS else len(self.body)


def cut_off(
    meter: str, path: str, *, limit: int, largest: int, at_once: int = 20, **plan: object
) -> Callable[[Run], None]:
    """60 answers of up to `largest` units, `at_once` of them in flight; `plan` may say that fewer may be."""

    def body(run: Run) -> None:
        cards = (a_card(PLENTY, "P1M"), a_card(limit, "P1M", feature=meter))
        sold = run.sell(None, phases=phases(*cards), **plan)
        run.touch(sold)  # a first burst on an account that is not loaded is another experiment (C2)
        sizes = [run.random.randrange(largest // 2, largest + 1) for _ in range(60)]
        with ThreadPoolExecutor(at_once) as pool:
            streams = list(pool.map(lambda each: ask(run, sold, path, *each), enumerate(sizes)))
        run.answers += [answer_of(each, sold) for each in streams]
        run.rest()
        got = sum(each.units(meter) for each in streams)
        billed, ambiguous = billed_units(run, sold, meter)
        allowed = int(str(plan.get("concurrencyLimit", at_once)))
        bound = 0 if path.startswith(("/v1/capped/", "/v1/cut/")) else allowed * largest
        ends = dict(Tally(each.end for each in streams))
        over = f"over-run {max(0, got - limit)} of at most {bound}"
        run.notes.append(f"{limit} {meter} sold, {got} received, {billed} billed: {over}; {ends}")
        run.demand(got <= limit + bound, f"{got} {meter} were received on a limit of {limit}")
        run.demand(billed <= limit + bound, f"{billed} {meter} are billed on a limit of {limit}")
        # What is held for those in flight is not to be had; a stream that is cut off has asked for a little ahead.
        least = limit * 0.9 if bound == 0 else limit - bound
        run.demand(got >= least, f"only {got} of {limit} {meter} were to be had")
        run.demand(
            billed - ambiguous <= got <= billed,
            f"{got} {meter} were received and {billed} are billed, {ambiguous} of them ambiguous",
        )

    return body


def ask(run: Run, sold: Customer, path: str, number: int, size: int) -> Streamed:
    """One answer of so many units: a chat for tokens, a download for bytes. Asked again while it is not decided."""
    full = path.format(size=size, tag=sold.tag, number=number)
    deadline = time.monotonic() + REST_WITHIN_S
    while (found := _ask_once(run, sold, full, size)).status in (429, 503) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _ask_once(run: Run, sold: Customer, path: str, size: int) -> Streamed:
    parts = urlsplit(run.rig.gateway)
    link = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    headers = {"authorization": f"Bearer {sold.api_key}", "content-type": "application/json"}
    chat = {"model": "m", "stream": True, "max_tokens": size, "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": "hello"}]}  # fmt: skip
    is_chat = "completions" in path
    try:
        link.request("POST" if is_chat else "GET", path, json.dumps(chat) if is_chat else None, headers)
        answer = link.getresponse()
        try:
            return Streamed(path, answer.status, answer.read(), is_whole=True)
        except http.client.IncompleteRead as cut:
            return Streamed(path, answer.status, cut.partial, is_whole=False)
    except (OSError, http.client.HTTPException):
        return Streamed(path, LOST, b"", is_whole=False)
    finally:
        link.close()


def answer_of(streamed: Streamed, sold: Customer) -> Answer:
    now = time.monotonic()
    status = streamed.status if streamed.is_whole else LOST
    path = streamed.path
    for route, upstream in _REWRITTEN:
        path = path.replace(route, upstream)
    return Answer(Question(path, sold.api_key), status, "", now, now)


def billed_units(run: Run, sold: Customer, meter: str) -> tuple[int, int]:
    """(all, those that are flagged ambiguous)"""
    with run.rig.ledger() as ledger:
        rows = ledger.execute(_BILLED, {"customer": sold.id, "meter": meter}).all()
    return sum(units for units, _ in rows), sum(units for units, flags in rows if AMBIGUOUS in flags)
