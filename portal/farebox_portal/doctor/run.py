"""All checks in their order, whatever is away: what a check stands on is looked at first."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Engine
from sqlmodel import Session, select

from farebox_portal.catalog.policies import DEFAULT_DOCUMENT, DEFAULT_KEY
from farebox_portal.catalog.tables import Policy
from farebox_portal.db import transaction
from farebox_portal.doctor import authentication, books, catalog, database, envoy, grace, lifecycle, payments, quota
from farebox_portal.doctor.envoy.document import NotABootstrap, read_bootstrap
from farebox_portal.doctor.envoy.routes import PolicyNeeds
from farebox_portal.doctor.report import Check, Finding, check, fail, skipped
from farebox_portal.payments.gateway import Gateway
from farebox_portal.settings import Settings

log = structlog.get_logger(__name__)

BY_DATABASE = {
    "catalog": "Catalog",
    "stripe": "Stripe mode and permissions",
    "billing_profile": "Billing profile",
    "webhooks": "Webhooks",
    "lifecycle": "Lifecycle",
    "grace": "Grace",
    "books": "Books",
}


@dataclass(frozen=True)
class Patient:
    """`wall`: the wall's clock, by which gateways live; `now`: the portal's, ahead of it in a test."""

    settings: Settings
    engine: Engine
    gateway: Gateway | None
    now: datetime
    wall: datetime
    environ: Mapping[str, str]


@dataclass(frozen=True)
class EnvoyConfig:
    """A file to be looked at, and the routes in it that are meant to be free."""

    name: str
    text: str
    free: frozenset[str] = frozenset()


def examine(patient: Patient, envoy_config: EnvoyConfig | None = None) -> list[Check]:
    """Every check, in the order of the report."""
    found = [authentication.examine(authentication.read(patient.settings))]
    ground = database.examine(database.read(patient.settings, patient.engine))
    found.append(ground)
    has_database = ground.status != "fail"
    if has_database:
        found += _by_database(patient)
    else:
        found += [skipped(key, title, "the database cannot be asked") for key, title in BY_DATABASE.items()]
    engine = patient.engine if has_database else None
    found.append(
        _whole(
            "quota", "Quota", lambda: quota.examine(quota.read(patient.settings, engine, patient.wall, patient.environ))
        )
    )
    policies = _policies(patient.engine) if has_database else None
    found.append(_whole("envoy", "Envoy configuration", lambda: examine_envoy(envoy_config, policies)))
    return found


def _by_database(patient: Patient) -> Iterator[Check]:
    def within(key: str, look: Callable[[Session], Check]) -> Check:
        def looked() -> Check:
            with transaction(patient.engine, read_only=True) as session:
                return look(session)

        return _whole(key, BY_DATABASE[key], looked)

    yield within("catalog", lambda session: catalog.examine(catalog.read(session)))
    facts: list[payments.Facts] = []

    def stripe() -> Check:
        facts.append(payments.read(patient.settings, patient.engine, patient.gateway, patient.now, patient.wall))
        return payments.examine_stripe(facts[0])

    yield _whole("stripe", BY_DATABASE["stripe"], stripe)
    yield _whole("billing_profile", BY_DATABASE["billing_profile"], lambda: payments.examine_profile(facts[0]))
    yield _whole("webhooks", BY_DATABASE["webhooks"], lambda: payments.examine_webhooks(facts[0]))
    publishes, collects = patient.settings.redis_url is not None, patient.gateway is not None
    yield within(
        "lifecycle",
        lambda session: lifecycle.examine(lifecycle.read(session, patient.now, publishes=publishes, collects=collects)),
    )
    yield within("grace", lambda session: grace.examine(grace.read(session)))
    yield within("books", lambda session: books.examine(books.read(session)))


def _whole(key: str, title: str, look: Callable[[], Check]) -> Check:
    """A check that breaks is a finding, and does not take the others with it."""
    try:
        return look()
    except Exception as error:
        log.exception("doctor_check_failed", check=key)
        broken = fail(
            f"this could not be looked at ({type(error).__name__})", "the log above has the reason; report it"
        )
        return Check(key, title, "not looked at", (broken,))


def examine_envoy(config: EnvoyConfig | None, policies: Mapping[str, PolicyNeeds] | None) -> Check:
    """`policies` None: it is not known which there are, and routes are not held against them."""
    key, title = "envoy", "Envoy configuration"
    if config is None:
        return skipped(key, title, "no --envoy-config FILE was given")
    try:
        bootstrap = read_bootstrap(config.text)
    except NotABootstrap as error:
        refused = fail(f"{config.name} {error.detail}", "a whole bootstrap, as `envoy -c` takes it")
        return check(key, title, config.name, [refused])
    findings: list[Finding] = list(envoy.lint(bootstrap, policies, config.free))
    return check(key, title, config.name, findings)


def _policies(engine: Engine) -> dict[str, PolicyNeeds]:
    with transaction(engine, read_only=True) as session:
        stored = {policy.key: policy.document for policy in session.exec(select(Policy))}
    return {key: PolicyNeeds.of(document) for key, document in ({DEFAULT_KEY: DEFAULT_DOCUMENT} | stored).items()}
