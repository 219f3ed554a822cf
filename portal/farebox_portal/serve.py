"""The portal as a process: listen, run the jobs beside it, and end within two seconds of SIGTERM."""

import signal
import socket
import threading

import structlog
import uvicorn
from sqlalchemy import Engine

from farebox_portal.app import create_app
from farebox_portal.errors import CannotStart
from farebox_portal.jobs import run_jobs
from farebox_portal.settings import Settings
from farebox_portal.testclock import portal_clock

log = structlog.get_logger(__name__)

# Requests under way get this long to finish, then the jobs.
_GRACE_S = 1
_BACKLOG = 2048


def serve(settings: Settings, engine: Engine, host: str, port: int, *, with_jobs: bool) -> None:
    """Serve until SIGTERM or SIGINT. Raises CannotStart when the port is taken."""
    listener = listen(host, port)
    clock = portal_clock(settings, engine)
    config = uvicorn.Config(
        create_app(settings, engine, clock),
        access_log=False,  # request_log has it, with the request's id
        log_config=None,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    stop = threading.Event()
    worker = threading.Thread(target=run_jobs, args=(engine, clock, settings, stop), name="jobs", daemon=True)
    # uvicorn raises the signal that ended it once more when it is done. By default that would kill the process before
    # the jobs have ended.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if with_jobs:
        worker.start()
    log.info("listening", address=f"http://{host}:{port}", jobs=with_jobs)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        stop.set()
        if with_jobs:
            worker.join(timeout=_GRACE_S)
        engine.dispose()


def run_jobs_alone(settings: Settings, engine: Engine) -> None:
    """Run the jobs until SIGTERM or SIGINT. Raises CannotStart when there is no gateway to publish to."""
    if settings.redis_url is None:
        raise CannotStart("FAREBOX_REDIS_URL: is required but not set")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_jobs(engine, portal_clock(settings, engine), settings, stop)
    engine.dispose()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises CannotStart with the reason."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotStart(f"--host: cannot listen on {host}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener
