"""A run against the committed figures: ratios only, for those are the same on another machine."""

from collections.abc import Iterable

from bench.figures import Ratio

TOLERANCE = 0.25


def regressions(committed: Iterable[Ratio], measured: Iterable[Ratio]) -> list[str]:
    """A line for each ratio that is worse by more than a quarter; what only one of the two has is no matter."""
    before = {ratio.name: ratio for ratio in committed}
    return [
        f"{now.name}: {now.value:.3g}, was {then.value:.3g} ({worse_by(then, now):.0%} worse)"
        for now in measured
        if (then := before.get(now.name)) is not None and worse_by(then, now) > TOLERANCE
    ]


def worse_by(committed: Ratio, measured: Ratio) -> float:
    """The share of the committed value by which it got worse; negative where it got better."""
    change = measured.value / committed.value - 1
    return -change if committed.better == "higher" else change
