"""`farebox smoke`. Imports stand inside, as in `cli`."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from farebox_portal.payments.smoke import Inbox, StepDocument
    from farebox_portal.settings import Settings

_MARKS = {"pass": "ok  ", "skip": "--  ", "fail": "FAIL"}


def smoke(
    test_mode: Annotated[
        bool, typer.Option("--test-mode", help="Has to be said: a customer and a paid invoice are made, in test mode.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON at the end.")] = False,
) -> None:
    """Walk once through everything that collecting needs, at the real provider, with a test key and its test money.

    Refuses live keys. Exit status 1 when a step fails.
    """
    from farebox_portal.errors import CannotStart
    from farebox_portal.payments import smoke as walk
    from farebox_portal.payments.open import RETRIES_OF_JOBS, open_gateway
    from farebox_portal.settings import load_settings

    if not test_mode:
        raise CannotStart("say --test-mode: this makes a customer and a paid invoice in the account's test mode")
    settings = load_settings()
    gateway = open_gateway(settings, RETRIES_OF_JOBS)
    if gateway is None:
        raise CannotStart("FAREBOX_STRIPE_API_KEY is not set")
    done = walk.smoke(gateway, _inbox(settings), (lambda _: None) if as_json else _show)
    if as_json:
        typer.echo(json.dumps(done.wire()))
    sys.exit(1 if done.status == "fail" else 0)


def _show(step: "StepDocument") -> None:
    typer.echo(f"{_MARKS[step.status]}  {step.name:12} {step.ms:6} ms  {step.detail}")


def _inbox(settings: "Settings") -> "Inbox | None":
    """The running portal's, if it is connected and webhooks reach it. A portal is not needed for the rest."""
    from sqlalchemy.exc import SQLAlchemyError

    from farebox_portal.db import make_engine, transaction
    from farebox_portal.payments.account import webhook_secrets

    if settings.database_url is None and not settings.state_dir.is_dir():
        return None
    engine = make_engine(settings.sql_url)
    try:
        with transaction(engine, read_only=True) as session:
            hears = bool(webhook_secrets(session, settings))
    except SQLAlchemyError:
        return None
    return _heard(engine) if hears else None


def _heard(engine: "Engine") -> "Inbox":
    from farebox_portal.db import transaction
    from farebox_portal.payments.events import is_heard_of

    def heard(object_id: str) -> bool:
        with transaction(engine, read_only=True) as session:
            return is_heard_of(session, object_id)

    return heard
