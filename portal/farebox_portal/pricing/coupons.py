"""A coupon makes the lines of an invoice cheaper: after everything that a rate card says, before credits and tax.

    a percentage   off each line by itself, from its rounded amount; also off what an earlier line gave back
    an amount      off all lines together, at most what they come to; spread over them by largest remainder

Only lines that it applies to count. No line gets below 0, and the reductions add up to what was taken off, exactly.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from farebox_portal.pricing.line import Line, Reduction
from farebox_portal.pricing.money import EXACT, Currency, allocate, decimal_text, to_minor


@dataclass(frozen=True, slots=True)
class Coupon:
    """Either `percent_off` or `amount_off_minor`. The keys: what it applies to; None: everything.

    Raises ValueError for terms that cannot be.
    """

    id: str
    code: str
    percent_off: Decimal | None = None
    amount_off_minor: int | None = None
    plan_keys: frozenset[str] | None = None
    feature_keys: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if (self.percent_off is None) == (self.amount_off_minor is None):
            raise ValueError("a coupon takes off either a percentage or an amount")
        if self.percent_off is not None and not 0 < self.percent_off <= 100:
            raise ValueError("a percentage lies above 0 and up to 100")
        if self.amount_off_minor is not None and self.amount_off_minor <= 0:
            raise ValueError("an amount is more than 0")

    def applies_to(self, plan_key: str, feature_key: str | None) -> bool:
        """To a rate card of this plan, and of this feature if it is of any."""
        is_of_plan = self.plan_keys is None or plan_key in self.plan_keys
        return is_of_plan and (self.feature_keys is None or feature_key in self.feature_keys)


def take_off(lines: Sequence[Line], coupon: Coupon, of: Currency, applies: Sequence[bool]) -> tuple[Line, ...]:
    """The same lines in the same order; with a reduction those that `applies` says, and that it makes cheaper."""
    if coupon.percent_off is not None:
        off = [
            _percentage_of(line, coupon.percent_off, of) if counts else 0
            for line, counts in zip(lines, applies, strict=True)
        ]
        text = f"{coupon.percent_off.normalize():f} % off"
    else:
        assert coupon.amount_off_minor is not None
        off = _spread(coupon.amount_off_minor, lines, of, applies)
        text = f"{decimal_text(coupon.amount_off_minor, of)} {of.code} off"
    return tuple(
        line.less(Reduction("coupon", coupon.id, f"{coupon.code}: {text}", amount_minor)) if amount_minor else line
        for line, amount_minor in zip(lines, off, strict=True)
    )


def is_reduced(lines: Iterable[Line]) -> bool:
    """Whether a coupon made anything cheaper: then one that is good for one invoice is used up."""
    return any(one.kind == "coupon" for line in lines for one in line.reductions)


def _percentage_of(line: Line, percentage: Decimal, of: Currency) -> int:
    exact = EXACT.multiply(Decimal(line.amount_minor), percentage).scaleb(-2 - of.exponent, EXACT)
    return to_minor(exact, of)


def _spread(amount_minor: int, lines: Sequence[Line], of: Currency, applies: Sequence[bool]) -> list[int]:
    """By what each comes to. What a line gives back is not made less, but leaves less to take off from."""
    owed = [line.amount_minor if counts else 0 for line, counts in zip(lines, applies, strict=True)]
    weights = [max(0, amount) for amount in owed]
    off_minor = min(amount_minor, sum(owed))
    return list(allocate(off_minor, weights, of.step_minor)) if off_minor > 0 else [0] * len(lines)
