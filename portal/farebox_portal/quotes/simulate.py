"""Past usage under another plan: what it would have brought in, and for whom it would have been more or less.

Both sides are rated by the same engine from the same ledger, over the same lives: every charge whose period begins in
[from, to), up to what was used by now. In the second reading, the other plan stands wherever the present one stood,
from the same instants on. What customers would have done differently, no ledger can say; what its hard limits would
have refused is counted, and charged all the same. Add-ons are left out on both sides.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field
from sqlmodel import Session, col, select

from farebox_portal.catalog import plan_rules, plans
from farebox_portal.catalog.plan_document import PlanInput, without_ours
from farebox_portal.catalog.tables import Feature, Plan
from farebox_portal.checking import DocumentedAs
from farebox_portal.clock import Timeline
from farebox_portal.customers.tables import Customer
from farebox_portal.documents import Input, Instant, Key, Output
from farebox_portal.errors import Fault, Invalid, NotFound
from farebox_portal.invoicing.charges import Due, charges
from farebox_portal.invoicing.rated import rate_all
from farebox_portal.pricing.money import Currency, currency, decimal_text
from farebox_portal.pricing.period import Period
from farebox_portal.quotes.limits import Limited, limited, over_limit
from farebox_portal.subscriptions.life import Life
from farebox_portal.subscriptions.rows import read_lives, read_plans
from farebox_portal.subscriptions.stretches import Stretch, stretches
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.testclock import read_timeline
from farebox_portal.usage.access import read_features

_OTHER = "simulated"


class SimulationInput(Input):
    """`plan`: a document as for `POST /v1/plans`. `subscribersOf`: whose usage; left out, that of the plan's key."""

    plan: Annotated[Any, DocumentedAs(PlanInput)]
    from_: Annotated[Instant, Field(alias="from")]
    to: Instant
    subscribers_of: Key | None = None


class SimulatedItem(Output):
    """`overLimit`: by feature, the units that the other plan's hard limits would have refused. They are in `after`."""

    subscription_id: str
    customer_id: str
    customer_key: str
    before: str
    after: str
    difference: str
    over_limit: dict[str, int] | None = None


class SimulationDocument(Output):
    """Amounts are revenue before credits and tax. `items`: the largest difference first."""

    plan_key: str
    subscribers_of: str
    currency: str
    from_: Annotated[Instant, Field(alias="from")]
    to: Instant
    before: str
    after: str
    difference: str
    customers: int
    customers_paying_more: int
    customers_paying_less: int
    customers_over_limit: int
    items: list[SimulatedItem]


@dataclass(frozen=True)
class _Case:
    """A subscription, what it is charged in either reading, and its hard limits in the second."""

    subscription: Subscription
    customer: Customer
    before: list[Due]
    after: list[Due]
    limits: list[Limited]


@dataclass(frozen=True)
class _Outcome:
    case: _Case
    before_minor: int
    after_minor: int
    over_limit: dict[str, int]

    @property
    def difference_minor(self) -> int:
        return self.after_minor - self.before_minor


def simulate(session: Session, wanted: SimulationInput) -> SimulationDocument:
    """Raises Invalid with every fault, NotFound when there is no plan whose subscribers are meant. Writes nothing."""
    other = _other_plan(session, wanted)
    key = wanted.subscribers_of or other.key
    version = session.exec(plans.every(key=key)).first()
    if version is None:
        raise NotFound(f"There is no plan '{key}' whose subscribers could be meant.", code="plan_not_found")
    if version.currency != other.currency:
        raise Invalid([{"pointer": "/plan/currency", "detail": f"the subscribers of '{key}' pay {version.currency}"}])
    features, timeline = read_features(session), read_timeline(session)
    cases = list(_cases(session, wanted, key, other, features))
    before = _amounts(session, [(one.subscription.id, one.before) for one in cases], features, timeline)
    after = _amounts(session, [(one.subscription.id, one.after) for one in cases], features, timeline)
    beyond = over_limit(session, [limit for one in cases for limit in one.limits], timeline)
    ids = [one.subscription.id for one in cases]
    outcomes = [
        _Outcome(one, before[id_], after[id_], beyond.get(id_, {})) for one, id_ in zip(cases, ids, strict=True)
    ]
    return _show(wanted, key, other, outcomes)


def _other_plan(session: Session, wanted: SimulationInput) -> Plan:
    """The document as a version that is in no table."""
    found: list[Fault] = [
        {"pointer": "/plan" + fault["pointer"], "detail": fault["detail"]}
        for fault in plan_rules.faults(wanted.plan, plans.known_features(session))
    ]
    if wanted.to <= wanted.from_:
        found.append({"pointer": "/to", "detail": "must be after from"})
    if found:
        raise Invalid(found)
    said = PlanInput.model_validate(without_ours(wanted.plan))
    return Plan(
        id=_OTHER,
        key=said.key,
        version=0,
        name=said.name,
        currency=said.currency,
        billing_cadence=said.billing_cadence,
        phases=wanted.plan["phases"],
        created_at=wanted.from_,
        updated_at=wanted.from_,
    )


def _cases(
    session: Session, wanted: SimulationInput, key: str, other: Plan, features: Mapping[str, Feature]
) -> Iterator[_Case]:
    asked = Period(wanted.from_, wanted.to)
    rows = select(Subscription, Customer).join(Customer).where(col(Subscription.active_from) < wanted.to)
    found = session.exec(rows.order_by(col(Subscription.id))).all()
    lives = read_lives(session, [subscription for subscription, _ in found])
    known = read_plans(session, lives.values())
    for subscription, customer in found:
        life = replace(lives[subscription.id], addons=())
        before = [due for due in _dues(stretches(life, known), life, asked) if due.plan.key == key]
        changed = stretches(_with(life, known, key, other), {**known, _OTHER: other})
        after = [due for due in _dues(changed, life, asked) if due.plan.id == _OTHER]
        limits = limited(subscription.id, changed, life.anchor, _OTHER, features, asked)
        if before or after or limits:
            yield _Case(subscription, customer, before, after, limits)


def _with(life: Life, known: Mapping[str, Plan], key: str, other: Plan) -> Life:
    """The other plan instead of every version of this one. Where it has no phase of that key, from its first on."""
    phases = {phase["key"] for phase in other.phases}
    segments = tuple(
        replace(segment, plan_id=_OTHER, phase=segment.phase if segment.phase in phases else None)
        if known[segment.plan_id].key == key
        else segment
        for segment in life.segments
    )
    return replace(life, segments=segments)


def _dues(cut: tuple[Stretch, ...], life: Life, asked: Period) -> list[Due]:
    return [due for due in charges(cut, life.anchor, asked.end) if due.service.served.start in asked]


def _amounts(
    session: Session,
    charged: Sequence[tuple[str, list[Due]]],
    features: Mapping[str, Feature],
    timeline: Timeline,
) -> dict[str, int]:
    """In minor units, by subscription."""
    dues = [(subscription_id, due) for subscription_id, found in charged for due in found]
    amounts = dict.fromkeys((subscription_id for subscription_id, _ in charged), 0)
    rated = rate_all(session, dues, features, timeline)
    for (subscription_id, _), one in zip(dues, rated, strict=True):
        amounts[subscription_id] += one.amount_minor
    return amounts


def _show(wanted: SimulationInput, key: str, other: Plan, outcomes: list[_Outcome]) -> SimulationDocument:
    of = currency(other.currency)
    before_minor = sum(one.before_minor for one in outcomes)
    after_minor = sum(one.after_minor for one in outcomes)
    customers: dict[str, int] = {}
    for one in outcomes:
        id_ = one.case.customer.id
        customers[id_] = customers.get(id_, 0) + one.difference_minor
    return SimulationDocument(
        plan_key=other.key,
        subscribers_of=key,
        currency=of.code,
        from_=wanted.from_,
        to=wanted.to,
        before=decimal_text(before_minor, of),
        after=decimal_text(after_minor, of),
        difference=decimal_text(after_minor - before_minor, of),
        customers=len(customers),
        customers_paying_more=sum(change > 0 for change in customers.values()),
        customers_paying_less=sum(change < 0 for change in customers.values()),
        customers_over_limit=len({one.case.customer.id for one in outcomes if one.over_limit}),
        items=[_item(one, of) for one in sorted(outcomes, key=lambda one: -abs(one.difference_minor))],
    )


def _item(outcome: _Outcome, of: Currency) -> SimulatedItem:
    return SimulatedItem(
        subscription_id=outcome.case.subscription.id,
        customer_id=outcome.case.customer.id,
        customer_key=outcome.case.customer.key,
        before=decimal_text(outcome.before_minor, of),
        after=decimal_text(outcome.after_minor, of),
        difference=decimal_text(outcome.difference_minor, of),
        over_limit=outcome.over_limit or None,
    )
