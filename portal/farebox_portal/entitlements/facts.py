"""Everything about an account that its document is made from, read in one go; usage is added by `used`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlmodel import Session, col, select

from farebox_portal.catalog.tables import Feature, Plan
from farebox_portal.clock import Timeline
from farebox_portal.customers.tables import Customer
from farebox_portal.pricing.grants import Usage
from farebox_portal.subscriptions.life import Life
from farebox_portal.subscriptions.rows import life_of, read_lives, read_plans
from farebox_portal.subscriptions.stretches import Stretch, stretches
from farebox_portal.subscriptions.tables import ApiKey, Subscription
from farebox_portal.testclock import read_timeline
from farebox_portal.usage.access import read_features
from farebox_portal.usage.grant_rows import Granted, read_grants


@dataclass(frozen=True)
class AccountFacts:
    customer: Customer
    subscriptions: tuple[tuple[Subscription, Plan], ...]
    keys: tuple[ApiKey, ...]
    features: Mapping[str, Feature]  # all there are, by key
    lives: Mapping[str, Life] = field(default_factory=dict)  # by subscription
    plans: Mapping[str, Plan] = field(default_factory=dict)  # every version that a life is ever on, by id
    timeline: Timeline = field(default_factory=Timeline)
    grants: Mapping[str, tuple[Granted, ...]] = field(default_factory=dict)  # by subscription
    # By subscription and feature, where a limit depends on it; None: not read, see `used.with_usage`.
    used: Mapping[tuple[str, str], tuple[Usage, ...]] | None = None
    complete_to: datetime | None = None  # how far the ledger is complete, on the wall's clock

    def stretches_of(self, subscription: Subscription, plan: Plan) -> tuple[Stretch, ...]:
        """Its life; without later segments where none were read."""
        life = self.lives.get(subscription.id) or life_of(subscription, ())
        return stretches(life, {plan.id: plan} | dict(self.plans))


def read_facts(session: Session, customer_ids: Sequence[str]) -> list[AccountFacts]:
    """The facts of those customers that exist, by id. A few hundred at a time: the ids travel in the query."""
    features = read_features(session)
    subscriptions: dict[str, list[tuple[Subscription, Plan]]] = defaultdict(list)
    bought = select(Subscription, Plan).join(Plan, col(Plan.id) == col(Subscription.plan_id))
    for subscription, plan in session.exec(bought.where(col(Subscription.customer_id).in_(customer_ids))):
        subscriptions[subscription.customer_id].append((subscription, plan))
    lives = read_lives(session, [subscription for pairs in subscriptions.values() for subscription, _ in pairs])
    plans = read_plans(session, lives.values())
    timeline = read_timeline(session)
    grants = read_grants(session, [*lives])
    keys: dict[str, list[ApiKey]] = defaultdict(list)
    for key in session.exec(select(ApiKey).where(col(ApiKey.customer_id).in_(customer_ids))):
        keys[key.customer_id].append(key)
    customers = session.exec(select(Customer).where(col(Customer.id).in_(customer_ids)).order_by(col(Customer.id)))
    return [
        AccountFacts(
            customer,
            tuple(subscriptions[customer.id]),
            tuple(keys[customer.id]),
            features,
            lives,
            plans,
            timeline,
            grants,
        )
        for customer in customers
    ]
