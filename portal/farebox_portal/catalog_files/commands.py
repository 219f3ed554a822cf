"""`farebox apply`, `export` and `diff`. Imports stand inside, as in `cli`."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farebox_portal.catalog_files.ending import DIFFERENT, ends_with_faults

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARKS = {"created": "+", "changed": "~", "unchanged": "=", "pending": "…", "removed": "-"}

Files = Annotated[list[str], typer.Argument(help="YAML or JSON; - reads standard input.", metavar="FILE...")]
Publish = Annotated[bool, typer.Option("--publish", help="Put plans and add-ons on sale that are new or changed.")]
Prune = Annotated[
    bool, typer.Option("--prune", help="Take away what is not in the files, of each section that is in them.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON.")]


@ends_with_faults
def apply(
    files: Files,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    publish: Publish = False,
    prune: Prune = False,
    as_json: AsJson = False,
) -> None:
    """Bring a portal's catalog up to YAML files: meters, features, policies, plans, add-ons, coupons. All or nothing.

    FAREBOX_PORTAL_URL and FAREBOX_ADMIN_TOKEN say which portal. A plan or an add-on that changed becomes a new version,
    a draft unless --publish is given. Exits with 2 when anything is wrong.
    """
    _show(_apply(files, publish=publish, prune=prune, dry_run=dry_run), as_json)


@ends_with_faults
def diff(files: Files, publish: Publish = False, prune: Prune = False, as_json: AsJson = False) -> None:
    """Say what `farebox apply` would do. Exits with 0 when that is nothing, 1 when it is something, 2 on errors."""
    applied = _apply(files, publish=publish, prune=prune, dry_run=True)
    _show(applied, as_json)
    if any(_is_news(item) for item in applied["items"]):
        sys.exit(DIFFERENT)


@ends_with_faults
def export(as_json: AsJson = False) -> None:
    """Print a portal's catalog as YAML that `farebox apply` takes, there or elsewhere."""
    from farebox_portal.catalog_files.remote import Remote
    from farebox_portal.catalog_files.writing import write_yaml

    with Remote() as portal:
        catalog = portal.call("GET", "/v1/catalog")
    typer.echo(json.dumps(catalog) if as_json else write_yaml(catalog), nl=as_json)


def _apply(names: list[str], *, publish: bool, prune: bool, dry_run: bool) -> dict[str, Any]:
    from farebox_portal.catalog_files.files import read_catalog
    from farebox_portal.catalog_files.remote import Remote
    from farebox_portal.errors import Invalid

    files = read_catalog(names)
    body = {**files.document, "publish": publish, "prune": prune, "dryRun": dry_run}
    with Remote() as portal:
        try:
            applied: dict[str, Any] = portal.call("POST", "/v1/catalog/apply", body)
        except Invalid as error:
            raise Invalid([files.place(fault) for fault in error.errors]) from None
    return applied


def _show(applied: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(applied))
        return
    for item in applied["items"]:
        typer.echo("\n".join(_lines(item)))
    found = [item["action"] for item in applied["items"]]
    counted = ", ".join(f"{found.count(action)} {action}" for action in _MARKS if action in found)
    typer.echo((counted or "nothing to do") + (" (dry run: nothing was written)" if applied["dryRun"] else ""))


def _lines(item: dict[str, Any]) -> "Iterator[str]":
    version = f" version {item['version']}" if "version" in item else ""
    status = f", {item['status']}" if "status" in item else ""
    yield (
        f"{_MARKS[item['action']]} {item['kind'].replace('_', ' ')} {item['key']}{version} {item['action']}{status}"
        + (", published now" if item.get("published") else "")
    )
    for part in item["changes"]:
        before, after = (_brief(part.get(side)) for side in ("before", "after"))
        yield f"    {part['pointer']}: {before} → {after}"


def _brief(value: Any) -> str:
    text = "(none)" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 72 else text[:71] + "…"


def _is_news(item: dict[str, Any]) -> bool:
    return item["action"] not in ("unchanged", "pending") or bool(item.get("published"))
