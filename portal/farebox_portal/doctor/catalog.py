"""Do the names fit together? A plan, a feature, a meter and a policy meet by their keys alone, and what does not meet
is no error anywhere: it is a request that is refused, or one that is never charged.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from farebox_portal.catalog import configuration, meters, plans, policies
from farebox_portal.catalog.plan_metadata import plan_marks
from farebox_portal.catalog.tables import Addon, Feature
from farebox_portal.doctor.report import Check, Finding, check, fail, warn


@dataclass(frozen=True, slots=True)
class Sold:
    """A rate card that is on sale. `grants`: units of its feature's meter; `is_open`: as many as anybody wants."""

    feature: str | None
    grants: bool
    is_open: bool
    has_usage_price: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """A plan or an add-on that can be bought, by its key and version."""

    name: str
    key: str
    is_plan: bool
    is_listed: bool
    cards: tuple[Sold, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """A feature. `meter` None: on or off, or a value."""

    meter: str | None
    is_filtered: bool
    is_archived: bool


@dataclass(frozen=True, slots=True)
class Costs:
    """What a policy charges, and which features it asks for."""

    meters: frozenset[str]
    required: frozenset[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """`order`: the plans' keys as they stand on the price list."""

    meters: frozenset[str]
    features: Mapping[str, Named]
    policies: Mapping[str, Costs]
    offers: tuple[Offer, ...]
    order: tuple[str, ...]


def read(session: Session) -> Facts:
    features = {
        one.key: Named(one.meter_slug, bool(one.filters), one.archived_at is not None)
        for one in session.exec(select(Feature))
    }
    on_sale = [
        Offer(
            f"plan '{plan.key}' version {plan.version}",
            plan.key,
            True,
            not plan_marks(plan.metadata_).is_private,
            tuple(_sold(card) for phase in plan.phases for card in phase["rateCards"]),
        )
        for plan in session.exec(plans.every(status="active"))
    ]
    addons = select(Addon).where(col(Addon.published_at).is_not(None), col(Addon.archived_at).is_(None))
    on_sale += [
        Offer(f"add-on '{one.key}' version {one.version}", one.key, False, True, tuple(map(_sold, one.rate_cards)))
        for one in session.exec(addons.order_by(col(Addon.key)))
    ]
    return Facts(
        meters=frozenset(meter.slug for meter in session.exec(meters.every())),
        features=features,
        policies={
            policy.key: Costs(frozenset(policy.meters or ()), frozenset(policy.required_entitlements))
            for policy in policies.every(session)
        },
        offers=tuple(on_sale),
        order=tuple(configuration.read(session).plan_order),
    )


def _sold(card: Mapping[str, Any]) -> Sold:
    template, price = card.get("entitlementTemplate") or {}, card.get("price") or {}
    return Sold(
        feature=card.get("featureKey"),
        grants=template.get("type") == "metered",
        is_open=template.get("type") == "metered" and template.get("isSoftLimit") is True,
        has_usage_price=price.get("type") not in (None, "flat"),
    )


def examine(facts: Facts) -> Check:
    plans_on_sale = sum(offer.is_plan for offer in facts.offers)
    summary = f"{plans_on_sale} plans on sale, {len(facts.meters)} meters, {len(facts.policies)} policies"
    return check("catalog", "Catalog", summary, _findings(facts))


def _findings(facts: Facts) -> Iterator[Finding]:
    if not any(offer.is_plan for offer in facts.offers):
        yield fail("no plan is on sale", "POST /v1/plans/{id}/publish, or `farebox apply FILE --publish`")
    yield from _policies(facts)
    for offer in facts.offers:
        yield from _offer(facts, offer)
    yield from _meters(facts)
    yield from _order(facts)


def _policies(facts: Facts) -> Iterator[Finding]:
    granted = _granted(facts)
    given = {card.feature for offer in facts.offers for card in offer.cards}
    for key, costs in facts.policies.items():
        for meter in sorted(costs.meters - facts.meters):
            yield fail(
                f"the policy '{key}' charges the meter '{meter}', which there is not: all its requests are refused",
                f"make the meter, or PUT /v1/policies/{key} with the one that is meant",
            )
        for meter in sorted((costs.meters & facts.meters) - granted):
            yield warn(
                f"nothing on sale grants the meter '{meter}', so requests under the policy '{key}' are refused",
                f"a rate card with a metered entitlement of a feature on '{meter}'",
            )
        for feature in sorted(costs.required):
            named = facts.features.get(feature)
            if named is None or named.is_archived:
                yield fail(
                    f"the policy '{key}' requires the feature '{feature}', which there is not: it refuses everybody",
                    f"make the feature, or PUT /v1/policies/{key} without it",
                )
            elif feature not in given:
                yield warn(
                    f"nothing on sale has the feature '{feature}', so requests under the policy '{key}' are refused",
                    f"a rate card of the feature '{feature}'",
                )


def _offer(facts: Facts, offer: Offer) -> Iterator[Finding]:
    charged = {meter for costs in facts.policies.values() for meter in costs.meters}
    priced = {card.feature for card in offer.cards if card.has_usage_price}
    for feature in sorted({card.feature for card in offer.cards if card.feature is not None}):
        cards = [card for card in offer.cards if card.feature == feature]
        named = facts.features.get(feature)
        if named is None:
            continue
        if named.is_archived:
            yield warn(f"the {offer.name} sells the feature '{feature}', which is archived", "make a new version of it")
        if any(card.is_open for card in cards) and feature not in priced:
            yield warn(
                f"the {offer.name} has no limit on '{feature}' and no price for it: any amount is free",
                "isSoftLimit: false, or a price by usage",
            )
        counts = any(card.grants or card.has_usage_price for card in cards)
        if counts and named.meter is not None and named.meter not in charged:
            yield warn(
                f"the {offer.name} sells '{feature}', and no policy charges its meter '{named.meter}': it stays at 0",
                f"name '{named.meter}' in a policy, unless its events come by POST /v1/events",
            )


def _meters(facts: Facts) -> Iterator[Finding]:
    live = {key: named for key, named in facts.features.items() if not named.is_archived}
    counted = {named.meter for named in live.values()}
    for meter in sorted(facts.meters - counted):
        yield warn(f"no feature counts on the meter '{meter}', so no plan can sell it", "POST /v1/features")
    for key, named in sorted(live.items()):
        if named.meter is not None and named.meter != key and key in facts.meters:
            yield warn(
                f"the feature '{key}' counts on the meter '{named.meter}', and there is a meter '{key}' too",
                "give the feature another name, or let it count on its namesake",
            )


def _order(facts: Facts) -> Iterator[Finding]:
    listed = sorted({offer.key for offer in facts.offers if offer.is_plan and offer.is_listed})
    unplaced = [key for key in listed if key not in facts.order]
    if len(listed) > 1 and unplaced:
        yield warn(
            f"planOrder does not say where {', '.join(unplaced)} stand, so what is an upgrade",
            "PUT /v1/monetization-configuration {planOrder: […]}",
        )


def _granted(facts: Facts) -> set[str | None]:
    """Meters of which something on sale grants units."""
    granting = {card.feature for offer in facts.offers for card in offer.cards if card.grants}
    return {named.meter for key, named in facts.features.items() if key in granting}
