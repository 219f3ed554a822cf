"""The demo's state directory: what a restart finds again, and a lock so that no two demos write into it.

secrets.json    tokens and API keys (0600): keys are stored as digests, so this is their only copy
payments.json   the payment stand-in's records
farebox.db      SQLite, the ledger
valkey/         append-only file
spool/          what the plugin has metered and not yet delivered
demo.env        the running demo's addresses and keys as shell variables (0600); gone when it stops
envoy.yaml      the gateway's configuration
logs/           one file for each child, of the latest run
"""

import fcntl
import json
import os
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from farebox_portal.errors import CannotStart


@dataclass(frozen=True)
class DemoCustomer:
    """A seeded customer with what its developer needs to call the API."""

    email: str
    api_key: str
    subscription_id: str = ""


@dataclass(frozen=True)
class Secrets:
    """Everything that the demo must not lose between two runs. ``customers`` is empty before the first seeding."""

    admin_token: str = field(repr=False, default_factory=lambda: "fba_" + secrets.token_urlsafe(24))
    plugin_token: str = field(repr=False, default_factory=lambda: "fbp_" + secrets.token_urlsafe(24))
    customers: Mapping[str, DemoCustomer] = field(repr=False, default_factory=dict)
    stripe_key: str = field(repr=False, default_factory=lambda: "sk_test_" + secrets.token_hex(16))
    """For the payment stand-in, which takes every test key."""


@dataclass(frozen=True)
class State:
    """A state directory that this process has locked."""

    folder: Path

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def read_secrets(self) -> Secrets:
        """Those of the last run, or new ones. Raises CannotStart when the file cannot be understood."""
        try:
            return _secrets_from(json.loads(self._secrets_file.read_text()))
        except FileNotFoundError:
            return Secrets()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CannotStart(f"{self._secrets_file} is damaged; remove {self.folder} to start afresh") from None

    def write_secrets(self, found: Secrets) -> None:
        """Replace the file as a whole, readable by this user only."""
        draft = self._secrets_file.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(found), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._secrets_file)

    @property
    def environment_file(self) -> Path:
        return self.folder / "demo.env"

    def write_environment(self, variables: Mapping[str, str]) -> None:
        """What another shell sources to talk to the running demo; readable by this user only."""
        self.environment_file.unlink(missing_ok=True)
        with os.fdopen(os.open(self.environment_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())

    @property
    def _secrets_file(self) -> Path:
        return self.folder / "secrets.json"


@contextmanager
def open_state(folder: Path | None) -> Iterator[State]:
    """Lock ``folder``, made if need be; without one, a fresh directory that is removed at the end.

    Raises CannotStart when another demo has it, or when it cannot be written.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="farebox-demo-", ignore_cleanup_errors=True) as fresh:
            yield _prepared(Path(fresh))
        return
    folder = folder.resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / "demo.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotStart(f"--state {folder}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise CannotStart(f"--state {folder}: another demo is running on it") from None
    try:
        yield _prepared(folder)
    finally:
        os.close(lock)


@contextmanager
def socket_folder() -> Iterator[Path]:
    """A folder for Unix sockets, removed at the end. In /tmp, because a socket's path ends at 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="farebox-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepared(folder: Path) -> State:
    for name in ("logs", "spool", "valkey"):
        (folder / name).mkdir(exist_ok=True, mode=0o700)
    return State(folder)


def _secrets_from(document: Any) -> Secrets:
    customers = {name: DemoCustomer(**customer) for name, customer in document["customers"].items()}
    known = {"stripe_key": str(document["stripe_key"])} if "stripe_key" in document else {}
    return Secrets(str(document["admin_token"]), str(document["plugin_token"]), customers, **known)
