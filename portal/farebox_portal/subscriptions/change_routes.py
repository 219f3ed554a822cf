"""Changes of plan over HTTP. What was used decides the credit, and usage is read by those who know it: see `app.py`."""

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from farebox_portal.auth import AdminOnly, ClockDep, Parts, PartsDep, ReadSessionDep
from farebox_portal.catalog import plans
from farebox_portal.clock import Clock
from farebox_portal.db import transaction
from farebox_portal.documents import JsonRoute, Output
from farebox_portal.idempotency import OnceDep
from farebox_portal.problems import RESPONSES
from farebox_portal.subscriptions import lifecycle, plan_change, plan_migration
from farebox_portal.subscriptions.plan_change import ChangeDocument, ChangeInput, MigrateInput, PlannedChange, UsedShare
from farebox_portal.subscriptions.plan_migration import PlanMigrationDocument, PlanMigrationInput
from farebox_portal.subscriptions.routes import RequirePayment
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.subscriptions.tax_document import TaxDocument


class CreditEstimate(Output):
    credit_amount: str
    currency: str


migration_router = APIRouter(
    prefix="/v1/plans/{plan_id}/migrate",
    tags=["plans"],
    route_class=JsonRoute,
    dependencies=[AdminOnly],
    responses=RESPONSES,
)


@migration_router.post("", response_model=PlanMigrationDocument)
def migrate_plan(plan_id: str, once: OnceDep, body: PlanMigrationInput | None = None) -> JSONResponse:
    """Move everybody who is on this version of the plan to another version of it, `limit` subscriptions at a time."""
    wanted = body or PlanMigrationInput()
    return once.answer(
        200,
        lambda: plan_migration.migrate(once.session, plans.get_by_id(once.session, plan_id), wanted, once.now),
    )


@migration_router.post("/preview", response_model_exclude_none=True)
def preview_migration(
    plan_id: str, session: ReadSessionDep, clock: ClockDep, body: PlanMigrationInput | None = None
) -> PlanMigrationDocument:
    """What `migrate` with the same body would do now: what differs, for how many, and who would stay."""
    return plan_migration.preview(session, plans.get_by_id(session, plan_id), body or PlanMigrationInput(), clock.now())


PreviewTax = Callable[[Parts, str, ChangeInput], TaxDocument | None]
"""What a change would be charged now, with its tax; None where no tax is worked out."""


class ChangePreview(ChangeDocument):
    """`tax`: what is charged at once, where the provider works out the tax; what is credited is off it already."""

    tax: TaxDocument | None = None


def change_router(used_share: UsedShare, require_payment: RequirePayment, preview_tax: PreviewTax) -> APIRouter:
    """The routes, with what tells them how much of an allowance was used, and what a paid plan takes to be paid."""
    router = APIRouter(
        prefix="/v1/subscriptions/{subscription_id}",
        tags=["subscriptions"],
        route_class=JsonRoute,
        dependencies=[AdminOnly],
        responses=RESPONSES,
    )

    @router.post("/change", response_model=ChangeDocument)
    def change_plan(subscription_id: str, body: ChangeInput, once: OnceDep, parts: PartsDep) -> JSONResponse:
        """Another plan under the same subscription: same keys, same anchor."""
        return _carry_out(
            once,
            subscription_id,
            lambda row: plan_change.plan_change(once.session, row, body, used_share, once.now),
            lambda row: require_payment(once.session, parts.settings, row, once.now),
        )

    @router.post("/change/preview", response_model_exclude_none=True)
    def preview_change(subscription_id: str, body: ChangeInput, parts: PartsDep, clock: ClockDep) -> ChangePreview:
        """What `change` with the same body would do now. Changes nothing."""
        shown = previewed(subscription_id, body, parts, clock)
        return ChangePreview(**shown.model_dump(), tax=preview_tax(parts, subscription_id, body))

    def previewed(subscription_id: str, body: ChangeInput, parts: Parts, clock: Clock) -> ChangeDocument:
        now = clock.now()
        with transaction(parts.engine, read_only=True) as session:
            row = lifecycle.get(session, subscription_id)
            return plan_change.show(session, plan_change.plan_change(session, row, body, used_share, now), now)

    @router.post("/change/estimate-credit")
    def estimate_credit(subscription_id: str, body: ChangeInput, parts: PartsDep, clock: ClockDep) -> CreditEstimate:
        """Of the preview the credit alone, as Zuplo's portal asks for it."""
        credit = previewed(subscription_id, body, parts, clock).credit
        return CreditEstimate(credit_amount=credit.amount, currency=credit.currency)

    @router.post("/migrate", response_model=ChangeDocument)
    def migrate(subscription_id: str, once: OnceDep, body: MigrateInput | None = None) -> JSONResponse:
        """Another version of the same plan. Allowances and phase go on."""
        wanted = body or MigrateInput()
        return _carry_out(
            once, subscription_id, lambda row: plan_change.plan_migration(once.session, row, wanted, once.now)
        )

    @router.post("/migrate/preview", response_model_exclude_none=True)
    def preview_own_migration(
        subscription_id: str, session: ReadSessionDep, clock: ClockDep, body: MigrateInput | None = None
    ) -> ChangeDocument:
        """What `migrate` with the same body would do now. Changes nothing."""
        row, now = lifecycle.get(session, subscription_id), clock.now()
        return plan_change.show(session, plan_change.plan_migration(session, row, body or MigrateInput(), now), now)

    return router


def _carry_out(
    once: OnceDep,
    subscription_id: str,
    plan: Callable[[Subscription], PlannedChange],
    settle: Callable[[Subscription], None] = lambda _: None,
) -> JSONResponse:
    def produce() -> ChangeDocument:
        row = lifecycle.get(once.session, subscription_id)
        plan_change.lock(once.session, row)
        planned = plan(row)
        answer = plan_change.show(once.session, planned, once.now)
        plan_change.carry_out(once.session, planned, once.now)
        settle(row)
        return answer

    return once.answer(200, produce)
