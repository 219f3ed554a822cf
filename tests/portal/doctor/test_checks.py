"""Each check on frozen facts: what is right has no findings, and each thing that goes wrong is one, with its remedy."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from farebox_portal.doctor import authentication, books, catalog, database, grace, lifecycle, payments, quota
from farebox_portal.doctor.report import Check
from farebox_portal.invoicing.verify import Fault
from farebox_portal.payments.gateway import Account, Endpoint

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


def holds(found: Check, status: str, words: str = "") -> None:
    assert found.status == status, found
    assert not words or any(words in one.detail for one in found.findings), found
    assert all(one.remedy and one.detail for one in found.findings)


# --- authentication --------------------------------------------------------------------------------------------------

SAFE = authentication.Facts(True, (), False, True, "https://portal.example.com")


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({}, "pass", ""),
        ({"known": ("FAREBOX_ADMIN_TOKEN",)}, "fail", "which everybody knows"),
        ({"known": ("FAREBOX_ADMIN_TOKEN",), "is_production": False}, "warn", "which everybody knows"),
        ({"is_one_token": True}, "fail", "the same token"),
        ({"public_url": "http://portal.example.com"}, "fail", "not https"),
        ({"public_url": "http://127.0.0.1:8001", "is_production": False}, "pass", ""),
        ({"has_pepper": False}, "warn", "FAREBOX_KEY_PEPPER"),
    ],
)
def test_authentication(changed: dict[str, Any], status: str, words: str) -> None:
    holds(authentication.examine(replace(SAFE, **changed)), status, words)


# --- database --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "status", "words"),
    [
        (database.Facts("postgresql", True), "pass", ""),
        (database.Facts("sqlite", False), "pass", ""),
        (database.Facts("sqlite", True), "warn", "one host"),
        (database.Facts("postgresql", True, "run `farebox migrate`"), "fail", "migrate"),
    ],
)
def test_database(facts: database.Facts, status: str, words: str) -> None:
    holds(database.examine(facts), status, words)


# --- catalog ---------------------------------------------------------------------------------------------------------

CALLS = catalog.Sold("calls", grants=True, is_open=False, has_usage_price=False)
PRO = catalog.Offer("plan 'pro' version 1", "pro", True, True, (CALLS,))
ADDON = catalog.Offer("add-on 'more' version 1", "more", False, True, (CALLS,))
CATALOG = catalog.Facts(
    meters=frozenset({"calls"}),
    features={"calls": catalog.Named("calls", False, False)},
    policies={"default": catalog.Costs(frozenset({"calls"}), frozenset())},
    offers=(PRO,),
    order=("pro",),
)


def offering(**changed: Any) -> catalog.Facts:
    return replace(CATALOG, offers=(replace(PRO, cards=(replace(CALLS, **changed),)),))


@pytest.mark.parametrize(
    ("facts", "status", "words"),
    [
        (CATALOG, "pass", ""),
        (replace(CATALOG, offers=()), "fail", "no plan is on sale"),
        (replace(CATALOG, offers=(ADDON,)), "fail", "no plan is on sale"),
        (
            replace(CATALOG, policies={"default": catalog.Costs(frozenset({"cals"}), frozenset())}),
            "fail",
            "charges the meter 'cals', which there is not",
        ),
        (
            replace(CATALOG, policies={"p": catalog.Costs(frozenset({"calls"}), frozenset({"premium"}))}),
            "fail",
            "requires the feature 'premium', which there is not",
        ),
        (
            replace(
                CATALOG,
                features=CATALOG.features | {"premium": catalog.Named(None, False, False)},
                policies={"p": catalog.Costs(frozenset({"calls"}), frozenset({"premium"}))},
            ),
            "warn",
            "nothing on sale has the feature 'premium'",
        ),
        (offering(grants=False), "warn", "nothing on sale grants the meter 'calls'"),
        (replace(offering(grants=False), offers=(replace(PRO, cards=()), ADDON)), "pass", ""),
        (offering(is_open=True), "warn", "no limit on 'calls' and no price"),
        (offering(is_open=True, has_usage_price=True), "pass", ""),
        (
            replace(CATALOG, policies={"default": catalog.Costs(frozenset(), frozenset())}),
            "warn",
            "no policy charges its meter 'calls'",
        ),
        (
            replace(CATALOG, features={"calls": catalog.Named("calls", False, True)}),
            "warn",
            "which is archived",
        ),
        (replace(CATALOG, meters=frozenset({"calls", "bytes"})), "warn", "no feature counts on the meter 'bytes'"),
        (
            replace(
                CATALOG,
                meters=frozenset({"calls", "bytes"}),
                features=CATALOG.features | {"bytes": catalog.Named("calls", False, False)},
            ),
            "warn",
            "and there is a meter 'bytes' too",
        ),
        (replace(CATALOG, offers=(PRO, replace(PRO, key="max"))), "warn", "where max stand"),
        (replace(CATALOG, offers=(PRO, replace(PRO, key="max", is_listed=False))), "pass", ""),
    ],
)
def test_catalog(facts: catalog.Facts, status: str, words: str) -> None:
    holds(catalog.examine(facts), status, words)


# --- payments --------------------------------------------------------------------------------------------------------

URL = "https://portal.example.com/v1/webhooks/stripe"
OURS = Endpoint("we_1", URL, True)
RECORD = payments.Connected("acct_1", True, "fb", None, True, "we_1", True)
SAID = payments.Answers(Account("acct_1", "Acme", "DE", NOW), (), (OURS,))
LIVE = payments.Facts(
    is_production=True,
    is_standin=False,
    public_url="https://portal.example.com",
    by_environment=False,
    account=RECORD,
    answers=SAID,
    inbox=payments.Inbox(last_at=NOW),
    profile=payments.Profile(True, "Acme Ltd", "1 Main Street", "DE", "off"),
    now=NOW,
    wall=NOW,
)


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({}, "pass", ""),
        ({"account": None, "answers": None}, "skip", ""),
        ({"account": None}, "fail", "no account is connected"),
        ({"answers": None}, "fail", "FAREBOX_STRIPE_API_KEY is not set"),
        ({"account": replace(RECORD, is_key_checked=False)}, "fail", "another one than was checked"),
        ({"account": replace(RECORD, fault="The key is not valid.")}, "fail", "The key is not valid."),
        ({"answers": payments.Answers(fault="Stripe could not be reached")}, "fail", "could not be reached"),
        ({"answers": replace(SAID, lacking=("Invoices: write",))}, "fail", "lacks 'Invoices: write'"),
        ({"account": replace(RECORD, account_id="acct_2")}, "fail", "is of the account acct_1"),
        ({"wall": NOW + timedelta(seconds=61)}, "fail", "+61 s"),
        ({"wall": NOW - timedelta(seconds=61)}, "fail", "-61 s"),
        ({"wall": NOW + timedelta(seconds=59)}, "pass", ""),
        ({"is_standin": True}, "fail", "no money moves"),
        ({"is_standin": True, "is_production": False}, "warn", "no money moves"),
    ],
)
def test_stripe(changed: dict[str, Any], status: str, words: str) -> None:
    holds(payments.examine_stripe(replace(LIVE, **changed)), status, words)


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({}, "pass", ""),
        ({"name": "Farebox"}, "fail", "are of 'Farebox'"),
        ({"name": "Farebox", "is_production": False}, "warn", "are of 'Farebox'"),
        ({"address": ""}, "warn", "no address"),
        ({"has_default": False}, "fail", "no default billing profile"),
        ({"has_default": False, "account": None, "answers": None}, "pass", ""),
        ({"country": "US"}, "warn", "supplier is in US, and the Stripe account in DE"),
        ({"country": None}, "pass", ""),
    ],
)
def test_billing_profile(changed: dict[str, Any], status: str, words: str) -> None:
    of_facts = {name: value for name, value in changed.items() if name in ("is_production", "account", "answers")}
    profile = replace(LIVE.profile, **{name: value for name, value in changed.items() if name not in of_facts})
    holds(payments.examine_profile(replace(LIVE, profile=profile, **of_facts)), status, words)


def endpoint(**changed: Any) -> dict[str, Any]:
    return {"answers": replace(SAID, endpoints=(replace(OURS, **changed),))}


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({}, "pass", ""),
        ({"account": None}, "skip", ""),
        ({"inbox": payments.Inbox(last_at=NOW, dead=2)}, "fail", "2 events could not be applied"),
        ({"inbox": payments.Inbox(NOW, NOW - timedelta(minutes=11))}, "fail", "waited for more than 10 minutes"),
        ({"inbox": payments.Inbox(NOW, NOW - timedelta(minutes=9))}, "pass", ""),
        ({"account": replace(RECORD, has_secret=False)}, "warn", "no webhooks"),
        ({"inbox": payments.Inbox(NOW - timedelta(days=8))}, "warn", "for a week"),
        ({"answers": replace(SAID, endpoints=())}, "fail", "not registered"),
        ({"answers": replace(SAID, endpoints=()), "by_environment": True}, "pass", ""),
        (endpoint(is_enabled=False), "fail", "switched off"),
        (endpoint(url="https://old.example.com/v1/webhooks/stripe"), "fail", "registered as https://old.example.com"),
        (endpoint(untold=("invoice.paid",)), "warn", "does not tell of invoice.paid"),
        (endpoint(is_current=False), "warn", "another API version"),
        ({"answers": replace(SAID, endpoints=(OURS, Endpoint("we_2", URL, False)))}, "warn", "1 other endpoints"),
    ],
)
def test_webhooks(changed: dict[str, Any], status: str, words: str) -> None:
    holds(payments.examine_webhooks(replace(LIVE, **changed)), status, words)


# --- quota -----------------------------------------------------------------------------------------------------------

SERVER = quota.Server("", "9.1.0", "noeviction", True)
QUOTA = quota.Facts(True, "", (SERVER,), True, (("one", "live"), ("old", "left")), quota.Reconciled(3))


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({}, "pass", ""),
        ({"has_store": False}, "fail", "FAREBOX_REDIS_URL is not set"),
        ({"store_fault": "ConnectionError", "servers": ()}, "fail", "does not answer (ConnectionError)"),
        ({"servers": (replace(SERVER, policy="allkeys-lru"),)}, "fail", "allkeys-lru"),
        ({"servers": (SERVER, replace(SERVER, name="b:6379", policy="volatile-ttl"))}, "fail", "Valkey b:6379 drops"),
        ({"servers": (replace(SERVER, version="6.2.1"),)}, "fail", "version 6.2.1"),
        ({"servers": (replace(SERVER, is_kept=False),)}, "warn", "writes nothing to disk"),
        ({"is_published": False}, "fail", "nothing was published"),
        ({"gateways": (("old", "left"),)}, "fail", "no gateway is live"),
        ({"gateways": (("one", "live"), ("two", "lost"))}, "warn", "'two' has been silent"),
        ({"reconciled": quota.Reconciled(fault="no plugin")}, "warn", "not compared with the ledger: no plugin"),
        ({"reconciled": quota.Reconciled(3, ("acme",))}, "fail", "1 accounts differ from ledger and spools: acme"),
    ],
)
def test_quota(changed: dict[str, Any], status: str, words: str) -> None:
    holds(quota.examine(replace(QUOTA, **changed)), status, words)


# --- lifecycle, grace, books -----------------------------------------------------------------------------------------

RUNNING = lifecycle.Facts(5, 0, 0, 0, 0, 0, 0, 0, 0, publishes=True)


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({}, "pass", ""),
        ({"uninvoiced": 2}, "fail", "2 subscriptions were due"),
        ({"uncollected": 2}, "fail", "2 invoices were due"),
        ({"waiting": 2}, "warn", "2 subscriptions have changed"),
        ({"unpublished": 2}, "warn", "2 customers have changed"),
        ({"unpublished": 2, "publishes": False}, "pass", ""),
        ({"stopped": 1}, "fail", "not collected before somebody"),
        ({"unsure": 1}, "fail", "nobody knows for a day"),
        ({"held": 1}, "warn", "wait for somebody"),
        ({"quarantined": 1}, "warn", "put aside"),
    ],
)
def test_lifecycle(changed: dict[str, Any], status: str, words: str) -> None:
    holds(lifecycle.examine(replace(RUNNING, **changed)), status, words)


@pytest.mark.parametrize(
    ("facts", "status", "words"),
    [
        (grace.Facts(3, (), 0, True), "pass", ""),
        (grace.Facts(0, (), 0, True), "warn", "the configuration bears 0 days"),
        (grace.Facts(0, (), 0, False), "pass", ""),
        (grace.Facts(3, (("pro", 0),), 0, True), "warn", "the plan 'pro' bears 0 days"),
        (grace.Facts(90, (), 0, True), "warn", "90 days without payment"),
    ],
)
def test_grace(facts: grace.Facts, status: str, words: str) -> None:
    holds(grace.examine(facts), status, words)


EVEN = books.Facts(3, 4, ())


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({}, "pass", ""),
        ({"faults": (Fault("M3: sums", "USD"),)}, "fail", "not so: M3: sums (USD)"),
        ({"faults": tuple(Fault("M8: x", f"c{n}") for n in range(9))}, "fail", "M8: x (c0, c1, c2 and 6 more)"),
    ],
)
def test_books(changed: dict[str, Any], status: str, words: str) -> None:
    holds(books.examine(replace(EVEN, **changed)), status, words)
