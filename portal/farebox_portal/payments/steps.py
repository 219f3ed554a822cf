"""What to do next about one invoice, from what is to be collected and what the provider has. Pure.

    nothing ── invoice ── line, line, … ── finalize ── pay

There is no script that has to be gone through: each step is chosen anew from what is there. So it does not matter where
the last run ended, whether an answer was lost, or whether somebody else was quicker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from farebox_portal.payments.gateway import Line, RemoteInvoice, RemoteStatus, Request, Step

LINES_MAX = 250
CREDITED = "-credited"
"""What the id of the line ends with that takes off what credit notes have taken back."""

Wish = Literal["collect", "give_up", "cancel", "keep"]
"""What our books say: take the money; it is lost; nothing is owed (any more); it is settled, leave it as it is."""


Tax = Literal["none", "awaited"]
"""Whether the provider is to work out the tax, and only then it is issued. Later its tax is among the lines."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An invoice of ours. `customer` is the provider's id. `is_due`: a try to take the money is due now.

    `is_retried_there`: a try has failed, and the provider makes the next ones.
    `lines` are what is still to be taken: where credit notes took back a part, one of them is CREDITED.
    """

    invoice_id: str
    instance: str
    customer: str
    number: str | None  # it has none before it is issued
    currency: str
    lines: tuple[Line, ...]
    wish: Wish
    is_due: bool
    tax: Tax = "none"
    is_retried_there: bool = False

    @property
    def total_minor(self) -> int:
        return sum(line.amount_minor for line in self.lines)

    @property
    def credited_minor(self) -> int:
        """What credit notes have taken back by now."""
        return -sum(line.amount_minor for line in self.lines if line.id.endswith(CREDITED))


@dataclass(frozen=True, slots=True)
class Send:
    step: Step
    request: Request
    part: str = ""


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing is to be done now; the invoice stands there as it is."""

    status: RemoteStatus | None
    remote: RemoteInvoice | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Somebody has to look at it: what is there cannot come from us. `reason` is a code."""

    reason: str
    remote: RemoteInvoice | None = None


@dataclass(frozen=True, slots=True)
class Adopt:
    """The provider has worked out the tax, and nothing can change it any more: it becomes ours."""

    remote: RemoteInvoice


def next_step(claim: Claim, found: Sequence[RemoteInvoice]) -> Send | Rest | Stop | Adopt:
    # What a customer who was deleted since had does not count; nobody can pay it.
    ours = [one for one in found if one.customer == claim.customer]
    others = [one for one in found if one.customer != claim.customer and one.status in ("draft", "open")]
    if others:
        return _drop(others[0])
    if any(one.status == "paid" for one in found if one not in ours):
        return Stop("paid_by_another_customer")
    if len(ours) > 1:
        return Stop("several_invoices")
    if not ours:
        return _create(claim)
    remote = ours[0]
    if claim.wish == "cancel":
        return _cancel(remote)
    if claim.wish == "keep":
        return Rest(remote.status, remote)
    if remote.currency != claim.currency:
        return Stop("currency_differs", remote)
    if remote.status == "draft":
        # Made for another way to deal with tax: since then it was decided to do without.
        return _fill(claim, remote) if remote.is_taxed == (claim.tax == "awaited") else _drop(remote)
    if claim.tax == "awaited":
        return _taxed(remote)
    if remote.status != "void" and remote.total_minor != claim.total_minor:
        return _again(claim, remote)
    return _collect(claim, remote)


def _taxed(remote: RemoteInvoice) -> Adopt | Rest | Stop:
    if remote.status == "void":
        return Rest(remote.status, remote)
    return Adopt(remote) if remote.is_taxed else Stop("tax_differs", remote)


def _again(claim: Claim, remote: RemoteInvoice) -> Send | Stop:
    """What is final there cannot become less. If it was credited here since, or issued without the tax that it has,
    another one takes its place.
    """
    is_credited_since = 0 < remote.total_minor - claim.total_minor <= claim.credited_minor
    if (is_credited_since or remote.is_taxed) and remote.status in ("open", "uncollectible"):
        return _drop(remote)
    return Stop("total_differs", remote)


def _create(claim: Claim) -> Send | Rest:
    if claim.wish != "collect":
        return Rest(None)
    request: Request = {
        "customer": claim.customer,
        "currency": claim.currency,
        "instance": claim.instance,
        "invoice": claim.invoice_id,
    }
    if claim.number is not None:
        request["description"] = f"Invoice {claim.number}"
    if claim.tax == "awaited":
        request["is_taxed"] = True
    return Send("invoice", request)


def _fill(claim: Claim, remote: RemoteInvoice) -> Send | Stop:
    there = dict(remote.lines)
    wanted = {line.id: line for line in claim.lines}
    if any(id_.endswith(CREDITED) and (id_ not in wanted or wanted[id_].amount_minor != there[id_]) for id_ in there):
        return _drop(remote)  # another credit note has come since
    known = len(there) == len(remote.lines) and all(
        id_ in wanted and wanted[id_].amount_minor == amount for id_, amount in there.items()
    )
    if not known:
        return Stop("lines_differ", remote)
    for line in claim.lines:
        if line.id not in there:
            return Send("line", _line_request(claim, remote, line), line.id)
    return Send("finalize", {"id": remote.id})


def _line_request(claim: Claim, remote: RemoteInvoice, line: Line) -> Request:
    return {
        "id": remote.id,
        "customer": claim.customer,
        "currency": claim.currency,
        "amount_minor": line.amount_minor,
        "description": line.description,
        "start_s": int(line.start.timestamp()),
        "end_s": int(line.end.timestamp()),
        "instance": claim.instance,
        "line": line.id,
    } | {name: said for name, said in (("tax_behavior", line.behavior), ("tax_code", line.tax_code)) if said}


def _collect(claim: Claim, remote: RemoteInvoice) -> Send | Rest:
    if remote.status == "open" and claim.wish == "give_up":
        return Send("uncollectible", {"id": remote.id})
    if remote.status in ("open", "uncollectible") and claim.wish == "collect" and claim.is_due:
        return Send("pay", {"id": remote.id})
    if remote.status == "open" and claim.is_retried_there and not remote.is_retried:
        return Send("retries", {"id": remote.id}, remote.id)
    return Rest(remote.status, remote)


def _cancel(remote: RemoteInvoice) -> Send | Rest | Stop:
    if remote.status in ("draft", "open", "uncollectible"):
        return _drop(remote)
    return Stop("paid_twice", remote) if remote.status == "paid" else Rest(remote.status, remote)


def _drop(remote: RemoteInvoice) -> Send:
    return Send("delete" if remote.status == "draft" else "void", {"id": remote.id}, remote.id)


def is_done(step: str, remote: RemoteInvoice) -> bool:
    """Whether what an operation was to bring about is there. `step` as operations name it: with its part."""
    name, _, part = step.partition(":")
    match name:
        case "invoice":
            return True
        case "line":
            return remote.status != "draft" or part in dict(remote.lines)
        case "finalize":
            return remote.status != "draft"
        case "pay":
            return remote.status == "paid"
        case "retries":
            return remote.is_retried
        case _:
            return part == remote.id and remote.status == name


def folded(lines: Sequence[Line]) -> tuple[Line, ...]:
    """At most as many as an invoice can have: the last ones become one."""
    if len(lines) <= LINES_MAX:
        return tuple(lines)
    return (*lines[: LINES_MAX - 1], joined(lines[LINES_MAX - 1 :]))


def joined(lines: Sequence[Line]) -> Line:
    """One in the place of several of the same terms of tax."""
    first = lines[0]
    return Line(
        f"{first.id}+",
        sum(line.amount_minor for line in lines),
        f"{len(lines)} further items",
        min(line.start for line in lines),
        max(line.end for line in lines),
        first.behavior,
        first.tax_code,
    )
