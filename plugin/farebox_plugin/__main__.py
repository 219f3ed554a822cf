"""`farebox plugin`: the gRPC server for Envoy."""

import asyncio
import os
import sys
from typing import Annotated

import typer

from farebox_plugin.garbage import collect_seldom
from farebox_plugin.keeper.run import keeper_socket, run_keeper
from farebox_plugin.observe import configure_logging
from farebox_plugin.settings import SettingsError, load_settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: farebox plugin --listen unix:/run/farebox/w%d.sock --workers 2")
def plugin(
    listen: Annotated[
        str, typer.Option(help="Where Envoy finds the workers: unix:/path/w%d.sock, %d is the worker's number.")
    ] = "unix:/tmp/farebox/w%d.sock",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Serving processes; one for each core of Envoy.")] = 2,
    transport: Annotated[
        str | None, typer.Option(help="grpcio (the reference) or h2 (ours; faster). [env: FAREBOX_TRANSPORT]")
    ] = None,
) -> None:
    """Answer Envoy's ext_authz, ext_proc and access log: authenticate, admit, meter."""
    configure_logging()
    collect_seldom()
    overrides = {} if transport is None else {"transport": transport}
    try:
        settings = load_settings(dict(os.environ), **overrides)
        check_listen(listen, workers)
        os.environ["FAREBOX_TRANSPORT"] = settings.transport  # the workers read it there
        sys.exit(asyncio.run(run_keeper(settings, listen, workers)))
    except SettingsError as fault:
        sys.stderr.write(f"farebox: {fault}\n")
        sys.exit(1)


def check_listen(listen: str, workers: int) -> None:
    """Raises SettingsError when the workers could not listen there."""
    if not listen.startswith("unix:/"):
        raise SettingsError("--listen: expected unix:/path/w%d.sock")
    if workers > 1 and "%d" not in listen:
        raise SettingsError("--listen: several workers need %d in the path; a shared socket feeds only one of them")
    path = max(listen.removeprefix("unix:").replace("%d", str(workers - 1)), keeper_socket(listen), key=len)
    if len(path.encode()) > 107:
        raise SettingsError(f"--listen: a Unix socket path has at most 107 bytes, this one has {len(path.encode())}")
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
    except OSError as fault:
        raise SettingsError(f"--listen: cannot create {folder}: {fault.strerror}") from fault
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SettingsError(f"--listen: cannot write to {folder}")


if __name__ == "__main__":
    app(prog_name="farebox plugin")
