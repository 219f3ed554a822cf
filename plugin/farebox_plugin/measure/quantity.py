"""A policy's rules + the facts of one response -> what is charged. Pure.

A quantity is never missing, never negative and never zero by accident: what cannot be measured is charged as it was
held, and the flag `estimated` goes into the ledger with it.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from farebox_plugin.measure.body import Wants
from farebox_plugin.measure.expression import (
    UNITS_MAX,
    Expression,
    ExpressionError,
    Facts,
    parse,
    units,
    value,
    wants,
)
from farebox_plugin.measure.providers import Usage
from farebox_plugin.terms import FIRST_ESTIMATE

__all__ = ["DIMENSION_CHARS_MAX", "Facts", "body_wants", "dimensions", "quantities"]

DIMENSION_CHARS_MAX = 128
# Meters of generated tokens: what was seen to pass is the least that can be charged where the count itself is missing.
_GENERATED = ("usage.outputTokens", "usage.totalTokens")


def body_wants(meters: Mapping[str, int | str], rules: Mapping[str, str]) -> Wants:
    """What a policy's meters and dimensions need to know of the response body, for `BodyMeter`."""
    texts = [rule for rule in (*meters.values(), *rules.values()) if isinstance(rule, str)]
    return wants([expression for text in texts if (expression := _parsed(text)) is not None])


def quantities(
    policy_meters: Mapping[str, int | str], facts: Facts, held: Mapping[str, int]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Units of every meter of the policy, and the flags that say how far they can be trusted.

    `held` is what was held of each meter. The flags are those of the reading and `estimated` (a quantity was not
    measured, or the stream was cut before its provider counted) and `invalid_expression`.
    """
    flags = set(facts.reading.flags) if facts.reading is not None else set()
    likely = _extrapolated(facts)
    measured: dict[str, int] = {}
    for meter, rule in policy_meters.items():
        if isinstance(rule, int):
            measured[meter] = rule
            continue
        expression = _parsed(rule)
        if expression is None:
            flags.add("invalid_expression")
        found = units(expression, likely) if expression is not None else None
        if expression is None or found is None or (likely is not facts and found != units(expression, facts)):
            flags.add("estimated")
        measured[meter] = _instead(rule, facts, held.get(meter, FIRST_ESTIMATE)) if found is None else found
    return measured, tuple(sorted(flags))


def dimensions(rules: Mapping[str, str], facts: Facts) -> dict[str, str]:
    """The labels under which the usage is kept. What is not known is left out."""
    labels: dict[str, str] = {}
    for name, rule in rules.items():
        expression = _parsed(rule)
        found = value(expression, facts) if expression is not None else None
        if found is not None and found != "":
            labels[name] = str(found)[:DIMENSION_CHARS_MAX]
    return labels


def _extrapolated(facts: Facts) -> Facts:
    """The facts, with the output tokens carried on to the end of the text; the same object if nothing is to be added.

    A stream that is cut off has often stated no usage, or only what it began with. Each event of generated text that
    came after the last statement is at least one token. A stream that ended properly and never stated anything is not
    extrapolated: there the provider was not asked to count, and the hold is charged.
    """
    reading = facts.reading
    if reading is None or not reading.uncounted_deltas or "invalid_usage" in reading.flags:
        return facts
    if reading.usage is None and reading.complete:
        return facts
    usage = reading.usage or Usage()
    output_tokens = (usage.output_tokens or 0) + reading.uncounted_deltas
    total_tokens = usage.input_tokens + output_tokens if usage.input_tokens is not None else None
    usage = replace(usage, output_tokens=output_tokens, total_tokens=total_tokens)
    return replace(facts, reading=replace(reading, usage=usage))


def _instead(rule: str, facts: Facts, held_units: int) -> int:
    """The charge for what was not measured: the hold, or what was seen to pass if that is more."""
    passed = facts.reading.delta_count if facts.reading is not None and rule in _GENERATED else 0
    return min(max(held_units, passed, 0), UNITS_MAX)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Expression | None:
    # Policies are checked when they are written; one that slipped through must not take the hot path down.
    try:
        return parse(text)
    except ExpressionError:
        return None
