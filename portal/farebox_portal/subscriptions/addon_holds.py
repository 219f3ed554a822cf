"""How many of an add-on a subscription has, and when. Pure.

What was ordered is a list of instants with quantities; each counts until the next one, and 0 ends it. What is in force
is that, as far as the life lets it: it ends with the life, and with a change to a plan that does not offer this version
of the add-on in that phase at that instant. Nobody has to carry any of this out; and what was ended by a planned change
goes on if that is taken back.

    ordered    2 ─────────── 5 ──────────────────────── 3 ───
    plan       pro ───────────────────┬ max (offers it not) ─
    in force   2 ─────────── 5 ───────┘

Once ended, it stays so: whoever orders it again gets a new hold. A pause ends nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from farebox_portal.catalog.tables import Addon, Plan

if TYPE_CHECKING:
    from farebox_portal.subscriptions.stretches import Stretch


@dataclass(frozen=True, slots=True)
class Offer:
    """A plan version offers the add-on over [since, until), from one of its phases on."""

    plan_id: str
    from_phase: str
    since: datetime
    until: datetime | None = None

    def is_of(self, plan: Plan, phase_key: str) -> bool:
        """Whether it is for this phase, whenever that is."""
        keys = [phase["key"] for phase in plan.phases]
        return self.plan_id == plan.id and keys.index(self.from_phase) <= keys.index(phase_key)

    def stands(self, at: datetime) -> bool:
        return self.since <= at and (self.until is None or at < self.until)


@dataclass(frozen=True, slots=True)
class Order:
    """From `at` on so many; 0: none."""

    at: datetime
    quantity: int


@dataclass(frozen=True, slots=True)
class Hold:
    """One add-on version in one life. `orders` ascend, and each differs from the one before; no order, no hold.

    `offers`: all there ever were of this version.
    """

    id: str
    addon: Addon
    orders: tuple[Order, ...]
    offers: tuple[Offer, ...] = ()

    def with_order(self, order: Order) -> "Hold":
        """From then on so many: what was planned for then or later gives way."""
        kept = [one for one in self.orders if one.at < order.at]
        before = kept[-1].quantity if kept else 0
        return replace(self, orders=(*kept, *([order] if order.quantity != before else ())))

    def begun(self, now: datetime) -> "Hold":
        """Without what is planned."""
        return replace(self, orders=tuple(one for one in self.orders if one.at <= now))


@dataclass(frozen=True, slots=True)
class Piece:
    """[start, end) of a hold within one stretch of a life, end None: it goes on. `quantity` is more than 0."""

    hold: Hold
    start: datetime
    end: datetime | None
    quantity: int

    def is_in_force(self, at: datetime) -> bool:
        return self.start <= at and (self.end is None or at < self.end)


def pieces(hold: Hold, life: Sequence["Stretch"]) -> Iterator[Piece]:
    """What of it is in force, in order. Pieces touch from the first to the last, and lie in one stretch each."""
    before: Stretch | None = None
    for stretch in life:
        if stretch.end is not None and stretch.end <= max(stretch.start, hold.orders[0].at):
            continue
        if not _may_be_in(hold, stretch, before):
            return
        for order, following in pairwise([*hold.orders, None]):
            assert order is not None
            start = max(order.at, stretch.start)
            end = earliest(stretch.end, None if following is None else following.at)
            if end is not None and end <= start:
                continue
            if order.quantity == 0:
                return
            yield Piece(hold, start, end, order.quantity)
        before = stretch


def _may_be_in(hold: Hold, stretch: "Stretch", before: "Stretch | None") -> bool:
    """`before`: the stretch in which it was so far. Another plan has to offer it when it takes over."""
    is_other = before is not None and before.plan.id != stretch.plan.id
    return any(
        offer.is_of(stretch.plan, stretch.phase["key"]) and (not is_other or offer.stands(stretch.start))
        for offer in hold.offers
    )


def earliest(*ends: datetime | None) -> datetime | None:
    """Of ends where None is never."""
    return min((end for end in ends if end is not None), default=None)


def timeline(hold: Hold, life: Sequence["Stretch"]) -> list[Piece]:
    """What of it is in force, over stretches: each piece as long as the quantity stays. `life` with its add-ons."""
    whole: list[Piece] = []
    for piece in (piece for stretch in life for piece in stretch.addons if piece.hold.id == hold.id):
        if whole and whole[-1].end == piece.start and whole[-1].quantity == piece.quantity:
            whole[-1] = replace(whole[-1], end=piece.end)
        else:
            whole.append(piece)
    return whole


def quantities(hold: Hold, life: Sequence["Stretch"]) -> list[tuple[datetime, int]]:
    """(from when on, how many), in order; 0 where it ends."""
    found = timeline(hold, life)
    changes = [(piece.start, piece.quantity) for piece in found]
    return changes + [(piece.end, 0) for piece in found[-1:] if piece.end is not None]
