"""`farebox doctor`. Imports stand inside, as in `cli`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farebox_portal.doctor.report import Check
    from farebox_portal.doctor.run import EnvoyConfig

_MARKS = {"pass": "ok  ", "warn": "warn", "fail": "FAIL", "skip": "--  "}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
    envoy_config: Annotated[
        Path | None,
        typer.Option("--envoy-config", help="Look at this configuration of Envoy too; - reads standard input."),
    ] = None,
    free: Annotated[
        list[str] | None, typer.Option("--free", help="A route of it that is meant to cost nothing; may be repeated.")
    ] = None,
) -> None:
    """Look at everything that should be right before strangers pay, and say what to do about what is not.

    Asks the database, Valkey, the provider and the plugin on this host, and changes nothing. Exit status 1 when a check
    fails; warnings may be meant, and do not fail.
    """
    from farebox_portal.doctor.report import document_of
    from farebox_portal.errors import SettingsError

    given = _read(envoy_config, frozenset(free or ()))
    environment: str | None = None
    try:
        environment, checks = _examine(given)
    except SettingsError as error:
        checks = _without_settings(error.detail, given)
    document = document_of(checks, environment)
    typer.echo(json.dumps(document.wire()) if as_json else as_text(checks))
    sys.exit(1 if document.status == "fail" else 0)


def _examine(envoy_config: "EnvoyConfig | None") -> "tuple[str, list[Check]]":
    import os

    from sqlalchemy.exc import SQLAlchemyError

    from farebox_portal.clock import SystemClock
    from farebox_portal.db import make_engine
    from farebox_portal.doctor.run import Patient, examine
    from farebox_portal.logs import configure_logs
    from farebox_portal.payments.open import RETRIES_OF_REQUESTS, open_gateway
    from farebox_portal.settings import load_settings
    from farebox_portal.testclock import portal_clock

    configure_logs()
    settings = load_settings()
    if settings.database_url is None:
        settings.prepare_state_dir()
    engine = make_engine(settings.sql_url)
    wall = SystemClock().now()
    try:
        now = portal_clock(settings, engine).now()
    except SQLAlchemyError:
        now = wall  # the check of the database says why
    patient = Patient(settings, engine, open_gateway(settings, RETRIES_OF_REQUESTS), now, wall, os.environ)
    return settings.environment, examine(patient, envoy_config)


def _without_settings(fault: str, envoy_config: "EnvoyConfig | None") -> "list[Check]":
    """A configuration of Envoy can be looked at all the same."""
    from farebox_portal.doctor.report import check, fail
    from farebox_portal.doctor.run import examine_envoy

    remedy = "see the table of variables in the README"
    settings = check("settings", "Settings", "environment variables", [fail(one, remedy) for one in fault.split("; ")])
    return [settings, examine_envoy(envoy_config, None)]


def _read(path: Path | None, free: frozenset[str]) -> "EnvoyConfig | None":
    from farebox_portal.doctor.run import EnvoyConfig
    from farebox_portal.errors import CannotStart

    if path is None:
        return None
    if str(path) == "-":
        return EnvoyConfig("standard input", sys.stdin.read(), free)
    try:
        return EnvoyConfig(str(path), path.read_text(encoding="utf-8"), free)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise CannotStart(f"--envoy-config: cannot read {path}: {reason}") from None


def as_text(checks: "Sequence[Check]") -> str:
    lines = []
    for check in checks:
        lines.append(f"{_MARKS[check.status]}  {check.title}: {check.summary}")
        for finding in check.findings:
            lines += [f"        {finding.level}: {finding.detail}", f"              {finding.remedy}"]
    failed = sum(check.status == "fail" for check in checks)
    lines.append("" if failed == 0 else f"\n{failed} of {len(checks)} checks fail.")
    return "\n".join(lines).rstrip()
