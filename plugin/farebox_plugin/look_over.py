"""`farebox reconcile` and `farebox rebuild`: ask the running keeper to look its accounts over, and show what it finds.

python -m farebox_plugin.look_over reconcile [--account ID] [--repair] [--json]
python -m farebox_plugin.look_over rebuild [--account ID] [--json]
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import typer

from farebox_plugin.keeper.run import ADDRESS
from farebox_plugin.settings import Settings, SettingsError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
Account = Annotated[str, typer.Option(help="One customer's id; without it, every account that Valkey knows.")]
AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON for each account.")]


@app.command(epilog="Example: farebox reconcile --repair")
def reconcile(
    account: Account = "*",
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild the accounts that differ.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare Valkey's counters and holds with the ledger and the spools. Exit status 1 when something differs."""
    findings = _ask("repair" if repair else "reconcile", account, as_json)
    bad = sum(finding["result"] not in ("right", "unloaded", "busy", "repaired") for finding in findings)
    if not as_json:
        typer.echo(f"{len(findings)} accounts, {sum(bool(each['drifts']) for each in findings)} with differences")
    sys.exit(1 if bad else 0)


@app.command(epilog="Example: farebox rebuild --account 01JD3V6Q8Y0M6S6T8C5K1W2X3Z")
def rebuild(account: Account = "*", as_json: AsJson = False) -> None:
    """Put counters and holds into Valkey anew, from the ledger and the spools. Safe at any time."""
    findings = _ask("rebuild", account, as_json)
    if not as_json:
        typer.echo(f"{len(findings)} accounts rebuilt")
    sys.exit(1 if any(finding["result"] != "rebuilt" for finding in findings) else 0)


def _ask(verb: str, account: str, as_json: bool) -> list[dict[str, Any]]:
    try:
        return asyncio.run(_collect(verb, account, as_json))
    except SettingsError as fault:
        sys.stderr.write(f"farebox: {fault}\n")
        sys.exit(1)


async def _collect(verb: str, account: str, as_json: bool) -> list[dict[str, Any]]:
    findings = []
    async for finding in _findings(verb, account):
        findings.append(finding)
        if as_json:
            typer.echo(json.dumps(finding))
            continue
        for drift in finding["drifts"]:
            typer.echo(f"{finding['account']}  {drift['what']}: {drift['found']} instead of {drift['expected']}")
        if finding["result"] != "right":
            typer.echo(f"{finding['account']}  {finding['result']}")
    return findings


async def _findings(verb: str, account: str) -> AsyncIterator[dict[str, Any]]:
    folder = Path(os.environ.get("FAREBOX_SPOOL_DIR") or Settings.model_fields["spool_dir"].default)
    try:
        reader, writer = await asyncio.open_unix_connection((folder / ADDRESS).read_text())
    except OSError:
        raise SettingsError(f"no plugin keeps {folder}: start it, or set FAREBOX_SPOOL_DIR to its folder") from None
    writer.write(f"{verb} {account}\n".encode())
    async for line in reader:
        yield json.loads(line)
    writer.close()


if __name__ == "__main__":
    app(prog_name="farebox")
