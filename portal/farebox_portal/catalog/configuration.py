"""How plans are sold, for all of them together: `/v1/monetization-configuration`.

`planOrder` is the order of the price list, and what is up and what is down: a plan that stands later is an upgrade.
`planSettings` says for one plan which of its phases the price list shows; left out, all. What is never set has its
default, so that there is always a configuration to read.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, StrictBool
from sqlmodel import Session, select

from farebox_portal.catalog.plan_document import PHASES_MAX
from farebox_portal.catalog.plan_metadata import OVERDUE_DAYS_MAX
from farebox_portal.catalog.tables import MonetizationConfiguration, Plan
from farebox_portal.checking import shape_faults
from farebox_portal.documents import Input, Key, Output, Whole
from farebox_portal.errors import Fault, Invalid, pointer

PLANS_MAX = 200
_ID = "only"


class PlanSettings(Input):
    visible_phases: Annotated[list[Key], Field(max_length=PHASES_MAX)] | None = None


class ConfigurationInput(Input):
    """What is left out stays; null goes back to the default."""

    multiple_subscriptions_enabled: StrictBool | None = None
    plan_order: Annotated[list[Key], Field(max_length=PLANS_MAX)] | None = None
    plan_settings: Annotated[dict[Key, PlanSettings], Field(max_length=PLANS_MAX)] | None = None
    max_payment_overdue_days: Annotated[Whole, Field(ge=0, le=OVERDUE_DAYS_MAX)] | None = None


class Configuration(Output):
    multiple_subscriptions_enabled: bool = False
    plan_order: list[str] = Field(default_factory=list)
    plan_settings: dict[str, dict[str, list[str]]] = Field(default_factory=dict)
    max_payment_overdue_days: int = 3

    def visible_phases(self, plan_key: str) -> list[str] | None:
        """Their keys; None: all."""
        return self.plan_settings.get(plan_key, {}).get("visiblePhases")


def read(session: Session) -> Configuration:
    row = session.get(MonetizationConfiguration, _ID)
    said = {} if row is None else {name: getattr(row, name) for name in ConfigurationInput.model_fields}
    return Configuration(**{name: value for name, value in said.items() if value is not None})


def change(session: Session, document: dict[str, Any], now: datetime) -> Configuration:
    """Raises Invalid with every fault."""
    found = faults(document, _phases(session))
    if found:
        raise Invalid(found)
    wanted = ConfigurationInput.model_validate(document)
    said = wanted.model_dump(by_alias=False, include=wanted.model_fields_set)
    if said.get("plan_settings") is not None:
        said["plan_settings"] = wanted.model_dump(by_alias=True, exclude_none=True)["planSettings"]
    row = session.get(MonetizationConfiguration, _ID) or MonetizationConfiguration(id=_ID, updated_at=now)
    for name, value in said.items():  # only these columns are written: two who change different ones both succeed
        setattr(row, name, value)
    row.updated_at = now
    session.add(row)
    session.flush()
    return read(session)


def reset(session: Session) -> None:
    """Back to the defaults."""
    row = session.get(MonetizationConfiguration, _ID)
    if row is not None:
        session.delete(row)


def faults(document: Any, phases: Mapping[str, frozenset[str]]) -> list[Fault]:
    """Everything wrong with a change. Pure: `phases` has the keys of all plans, each with those of its phases."""
    found = {fault["pointer"]: fault for fault in shape_faults(ConfigurationInput, document)}
    if not found:
        wanted = ConfigurationInput.model_validate(document)
        found = {fault["pointer"]: fault for fault in _broken_rules(wanted, phases)}
    return list(found.values())


def _broken_rules(wanted: ConfigurationInput, phases: Mapping[str, frozenset[str]]) -> Iterator[Fault]:
    if not wanted.model_fields_set:
        yield {"pointer": "", "detail": "must have at least one field; DELETE goes back to the defaults"}
    order = wanted.plan_order or []
    for place, key in enumerate(order):
        if key not in phases:
            yield {"pointer": pointer("planOrder", place), "detail": "there is no such plan"}
        elif key in order[:place]:
            yield {"pointer": pointer("planOrder", place), "detail": "stands earlier already"}
    for key, settings in (wanted.plan_settings or {}).items():
        if key not in phases:
            yield {"pointer": pointer("planSettings", key), "detail": "there is no such plan"}
            continue
        for place, phase in enumerate(settings.visible_phases or []):
            if phase not in phases[key]:
                where = pointer("planSettings", key, "visiblePhases", place)
                yield {"pointer": where, "detail": "no version of this plan has such a phase"}


def _phases(session: Session) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for key, phases in session.exec(select(Plan.key, Plan.phases)):
        found[key] = found.get(key, frozenset()) | {phase["key"] for phase in phases}
    return found
