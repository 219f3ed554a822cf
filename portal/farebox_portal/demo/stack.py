"""The whole product on one machine: which children there are, in which order they start, which may die.

    valkey, payments -> portal (schema, seed), upstream, plugin -> envoy    and stopped from the outside in:
    envoy, plugin, portal, payments, upstream, valkey

Every child is asked something that only our own child answers rightly. A second demo that starts in the same second
may have got the port; then ours dies, and another port is tried.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, cast
from uuid import uuid4

from farebox.v1 import digest, layout
from farebox.v1.entitlements_pb2 import KeyRecord
from farebox.v1.usage_pb2 import AccountsQuestion, AccountStates
from farebox_portal.demo import engines, probe
from farebox_portal.demo.child import Child
from farebox_portal.demo.envoy_config import GatewayConfig
from farebox_portal.demo.ports import is_free, next_free, require_free
from farebox_portal.demo.state import Secrets, State
from farebox_portal.errors import CannotStart

if TYPE_CHECKING:
    import redis

WORKERS = 2
STOP_ORDER = ("envoy", "plugin", "portal", "payments", "upstream", "valkey")
STOP_GRACE_S = 5.0
STOP_GRACES_S = {"plugin": 12.0}  # it sees every settlement home
READY_TIMEOUT_S = 60.0
_PORT_TRIES = 10
_NEAR = {"gateway": 8000, "portal": 8001, "upstream": 8002, "payments": 8003, "envoy admin": 9901}


@dataclass(frozen=True)
class Wanted:
    """The ports that the user insists on; None = the next free one."""

    gateway: int | None = None
    portal: int | None = None

    def check(self) -> None:
        """Raise CannotStart, naming the option, for a port that cannot be had."""
        for port, option in ((self.gateway, "--gateway-port"), (self.portal, "--portal-port")):
            if port is not None:
                require_free(port, option)
        if self.gateway is not None and self.gateway == self.portal:
            raise CannotStart(f"--gateway-port and --portal-port are both {self.gateway}")


@dataclass(frozen=True)
class Part:
    """A child that listens on TCP ports: how it is made, and what only it would answer."""

    name: str
    make: Callable[[], Child]
    ready: Callable[[Child], bool]
    ports: tuple[str, ...]


class Stack:
    """``start`` it, watch ``children``, ``stop`` it. ``say`` is told of each step; ``stop_asked`` ends any waiting."""

    def __init__(
        self, state: State, sockets: Path, wanted: Wanted, stop_asked: Event, say: Callable[[str], None]
    ) -> None:
        self.state = state
        self.wanted = wanted
        self.secrets = Secrets()
        self.children: dict[str, Child] = {}
        self.ports: dict[str, int] = {}
        self._sockets = sockets
        self._stop_asked = stop_asked
        self._say = say

    def start(self) -> None:
        """Start everything and return when a request with any seeded key would be decided.

        Raises CannotStart with the reason, Stopped when ``stop_asked`` is set; ``stop`` is to be called either way.
        """
        self.wanted.check()
        self._launch_on_free_ports(self._payments_part)  # it takes a moment; the portal needs its port
        with self._step("valkey"):
            child = engines.valkey(self._valkey_socket, self.state.folder / "valkey", self.state.log("valkey"))
            self._launch("valkey", child)
            self._wait(child, lambda: probe.answers_ping(self._valkey_socket))
        # Most of a start is Python importing: all children do it at the same time.
        self.secrets = self.state.read_secrets()
        self.state.write_secrets(self.secrets)
        self._launch_on_free_ports(self._upstream_part)
        with self._step("payments"):
            self._settle_on_ports(self._payments_part)
        self._launch_on_free_ports(self._portal_part)
        self._launch("plugin", self._plugin())
        for part in (self._upstream_part, self._portal_part):
            with self._step(part.name):
                self._settle_on_ports(part)
        self.secrets = self.state.read_secrets()  # with the customers that the portal has seeded
        with self._step("plugin"):
            if self.children["plugin"].environment != self._environment:  # the portal had to move
                self.children["plugin"].stop(STOP_GRACE_S)
                self._launch("plugin", self._plugin())
            self._wait(self.children["plugin"], lambda: all(probe.accepts(Path(path)) for path in self._worker_sockets))
        with self._step("envoy"):
            part = Part("envoy", self._envoy, self._envoy_is_ready, ("gateway", "envoy admin"))
            self._launch_on_free_ports(part)
            self._settle_on_ports(part)
        with self._step("gateway"):
            self._wait(self.children["portal"], self._everything_is_published)
            self._wait(self.children["envoy"], self._gateway_refuses_strangers)
            self._warm_up()

    def stop(self) -> None:
        """End every child, the gateway first, so that nothing is let in that the others would no longer see."""
        gateway = self.children.get("envoy")
        if gateway is not None and gateway.exit_status is None and "envoy admin" in self.ports:
            engines.drain_envoy(self.ports["envoy admin"])
        for name in STOP_ORDER:
            if name in self.children:
                self.children[name].stop(STOP_GRACES_S.get(name, STOP_GRACE_S))

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def _valkey_socket(self) -> Path:
        return self._sockets / "valkey.sock"

    @property
    def _worker_sockets(self) -> tuple[str, ...]:
        return tuple(str(self._sockets / f"w{worker}.sock") for worker in range(WORKERS))

    @property
    def _environment(self) -> dict[str, str]:
        """What portal and plugin are told. The portal's URL comes with its port."""
        told = {
            "FAREBOX_ENVIRONMENT": "test",
            "FAREBOX_STATE_DIR": str(self.state.folder),
            "FAREBOX_SPOOL_DIR": str(self.state.folder / "spool"),
            "FAREBOX_REDIS_URL": f"unix://{self._valkey_socket}",
            "FAREBOX_STORE_TIMEOUT_MS": "300",  # everything shares one laptop, which may be busy with something else
            "FAREBOX_ADMIN_TOKEN": self.secrets.admin_token,
            "FAREBOX_PLUGIN_TOKEN": self.secrets.plugin_token,
        }
        if "portal" in self.ports:
            told |= {"FAREBOX_PUBLIC_URL": self.url("portal"), "FAREBOX_PORTAL_URL": self.url("portal")}
        return told

    @property
    def _portal_part(self) -> Part:
        return Part("portal", self._portal, self._portal_is_ready, ("portal",))

    @property
    def _upstream_part(self) -> Part:
        return Part("upstream", self._upstream, self._upstream_is_ready, ("upstream",))

    def _portal(self) -> Child:
        command = [sys.executable, "-m", "farebox_portal.demo.portal", "--port", str(self.ports["portal"])]
        told = self._environment
        if "payments" in self.ports:
            told |= {"FAREBOX_STRIPE_API_BASE": self.url("payments"), "FAREBOX_STRIPE_API_KEY": self.secrets.stripe_key}
        return Child("portal", command, self.state.log("portal"), told)

    def _portal_is_ready(self, _child: Child) -> bool:
        ours = {"authorization": f"Bearer {self.secrets.admin_token}"}
        return probe.get(self.ports["portal"], "/v1/meters", ours)[0] == 200

    @property
    def _payments_part(self) -> Part:
        return Part("payments", self._payments, self._payments_is_ready, ("payments",))

    def _payments(self) -> Child:
        command = [sys.executable, "-m", "farebox_portal.standin", "--port", str(self.ports["payments"])]
        command += ["--state", str(self.state.folder / "payments.json")]
        return Child("payments", command, self.state.log("payments"))

    def _payments_is_ready(self, child: Child) -> bool:
        answer = probe.get_json(self.ports["payments"], "/healthz")
        return isinstance(answer, dict) and answer.get("pid") == child.pid

    def _upstream(self) -> Child:
        command = [sys.executable, "-m", "farebox_portal.demo.upstream", "--port", str(self.ports["upstream"])]
        return Child("upstream", command, self.state.log("upstream"))

    def _upstream_is_ready(self, child: Child) -> bool:
        answer = probe.get_json(self.ports["upstream"], "/healthz")
        return isinstance(answer, dict) and answer.get("pid") == child.pid

    def _plugin(self) -> Child:
        listen = f"unix:{self._sockets}/w%d.sock"
        command = [sys.executable, "-m", "farebox_plugin", "--listen", listen, "--workers", str(WORKERS)]
        return Child("plugin", command, self.state.log("plugin"), self._environment)

    def _envoy(self) -> Child:
        config = GatewayConfig(
            listen=f"127.0.0.1:{self.ports['gateway']}",
            admin=f"127.0.0.1:{self.ports['envoy admin']}",
            upstream=f"127.0.0.1:{self.ports['upstream']}",
            sockets=self._worker_sockets,
        )
        self._envoy_name = f"farebox-demo-{uuid4().hex[:12]}"
        return engines.envoy(config, self._envoy_name, self.state.folder, self.state.log("envoy"))

    def _envoy_is_ready(self, _child: Child) -> bool:
        return engines.envoy_is_live(self.ports["envoy admin"], self._envoy_name)

    def _gateway_refuses_strangers(self) -> bool:
        """401 for a well-formed key is an answer of the plugin that has read the whole key directory; before: 503."""
        stranger = {"authorization": f"Bearer {digest.new_api_key('test')}"}
        return probe.get(self.ports["gateway"], "/v1/echo", stranger)[0] == 401

    def _everything_is_published(self) -> bool:
        """Whether the gateway's store has all that a request with a seeded key is decided by."""
        import redis

        try:
            with redis.Redis(unix_socket_path=str(self._valkey_socket), socket_timeout=2) as store:
                accounts = self._accounts(store)
                if not accounts or store.exists(layout.DIRECTORY, layout.POLICIES) != 2:
                    return False
                return bool(store.exists(*map(layout.account, accounts)) == len(accounts))
        except redis.RedisError:
            return False

    def _accounts(self, store: "redis.Redis") -> set[str]:
        """The accounts of the seeded keys; empty until every key is published."""
        digests = [digest.digest(customer.api_key) for customer in self.secrets.customers.values()]
        records = store.mget([layout.api_key(each) for each in digests])
        return (
            set() if None in records else {KeyRecord.FromString(each).account_id for each in cast(list[bytes], records)}
        )

    def _warm_up(self) -> None:
        """Ask the portal once as the plugin asks it: its first answer can take longer than Envoy waits."""
        import redis

        with redis.Redis(unix_socket_path=str(self._valkey_socket), socket_timeout=2) as store:
            account = next(iter(self._accounts(store)))
        self._wait(self.children["portal"], lambda: self._portal_knows(account))

    def _portal_knows(self, account: str) -> bool:
        headers = {"authorization": f"Bearer {self.secrets.plugin_token}", "content-type": "application/x-protobuf"}
        question = AccountsQuestion(accounts=[account]).SerializeToString()
        status, body = probe.post(self.ports["portal"], "/internal/v1/accounts/states", headers, question)
        return status == 200 and AccountStates.FromString(body).states[0].account != b""

    def _launch_on_free_ports(self, part: Part) -> None:
        for port in part.ports:
            self.ports[port] = self._port(port)
        self._launch(part.name, part.make())

    def _settle_on_ports(self, part: Part) -> None:
        """Wait for a launched part; launch it on other ports if somebody else has taken one of them meanwhile."""
        for _ in range(_PORT_TRIES):
            child = self.children[part.name]
            try:
                self._wait(child, lambda: part.ready(child))  # noqa: B023 - called at once
                return
            except CannotStart:
                # Whoever had the port may have gone again by now: the child's own words count as well.
                lost_a_port = "address already in use" in child.last_lines().lower()
                is_taken = not all(is_free(self.ports[port]) for port in part.ports)
                if child.exit_status is None or not (lost_a_port or is_taken):
                    raise
                self._say("a port was taken meanwhile, trying another … ")
                self._launch_on_free_ports(part)
        raise CannotStart(f"{part.name} found no port in {_PORT_TRIES} tries; its log ends:\n{child.last_lines()}")

    def _port(self, name: str) -> int:
        wanted = {"gateway": self.wanted.gateway, "portal": self.wanted.portal}
        insisted = wanted.get(name)
        if insisted is not None:
            require_free(insisted, f"--{name}-port")
            return insisted
        others = {port for other, port in self.ports.items() if other != name}
        return next_free(_NEAR[name], others | {port for port in wanted.values() if port is not None})

    def _launch(self, name: str, child: Child) -> None:
        self.children[name] = child  # first: what is started is what ``stop`` finds
        child.start()

    def _wait(self, child: Child, ready: Callable[[], bool]) -> None:
        child.wait_ready(ready, READY_TIMEOUT_S, self._stop_asked)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        self._say(f"{name} … ")
        try:
            yield
        except BaseException:
            self._say("\n")
            raise
        self._say(f"ok {time.monotonic() - began:.1f} s\n")
