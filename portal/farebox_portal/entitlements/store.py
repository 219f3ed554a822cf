"""The way to Valkey, one server or a cluster.

Clients give up soon and never try again by themselves: the loop that uses them does, with fresher facts.
"""

import contextlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from farebox.v1 import layout

TIMEOUT_S = 0.4

Client = redis.Redis | RedisCluster
Command = tuple[str, tuple[bytes | str | int, ...]]  # its key, its words


class Store:
    """Finds out what the URL leads to when it is first reached. Several hosts (``a:6379,b:6379``) are of a cluster."""

    def __init__(self, url: str) -> None:
        self._urls = _each_host(url)
        self._first = connect(self._urls[0])
        self._client: Client | None = None

    def client(self) -> Client:
        """While nothing can be reached it is the first host's, and says so itself when it is used."""
        if self._client is None:
            self._client = self._found()
        return self._client or self._first

    def _found(self) -> Client | None:
        for url in self._urls:
            with connect(url) as one, contextlib.suppress(RedisError):
                is_cluster = one.info("cluster").get("cluster_enabled") == 1
                return connect_cluster(self._urls) if is_cluster else connect(url)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._first.close()
        if self._client is not None:
            self._client.close()


def connect(url: str) -> redis.Redis:
    """A client of one server."""
    return redis.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
    )


def connect_cluster(urls: list[str]) -> RedisCluster:
    """A client of a cluster by way of some of its nodes. Raises ConnectionError when none of them answers."""
    parsed = [parse_url(url) for url in urls]  # type: ignore[no-untyped-call]
    login = {name: parsed[0][name] for name in ("username", "password") if name in parsed[0]}
    try:
        return RedisCluster(
            startup_nodes=[_node(each) for each in parsed],
            retry=Retry(NoBackoff(), 0),
            require_full_coverage=False,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            ssl=urls[0].startswith("rediss:"),
            **login,
        )
    except RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error


def _node(parsed: Mapping[str, Any]) -> ClusterNode:
    return ClusterNode(parsed.get("host", "127.0.0.1"), parsed.get("port", 6379))  # type: ignore[no-untyped-call]


def generations(store: Client) -> tuple[dict[str, str], list[RedisError]]:
    """Which incarnation each master is, by the name of its node ("" on a single server); and why some do not say.

    Those that do not make the client look for who has taken their place.
    """
    if isinstance(store, redis.Redis):
        return {"": _generation(store)}, []
    found: dict[str, str] = {}
    errors: list[RedisError] = []
    for node in store.get_primaries():  # type: ignore[no-untyped-call]
        try:
            found[node.name] = _generation(store.get_redis_connection(node))
        except RedisError as error:
            errors.append(error)
    if errors:
        _look_again(store)
    return found, errors


def node_of(store: Client, key: str) -> str:
    """The name of the node that has this key; "?" if none has, or its place is not known."""
    if isinstance(store, redis.Redis):
        return ""
    try:
        node = store.get_node_from_key(key)  # type: ignore[no-untyped-call]
    except RedisClusterException:
        return "?"
    return "?" if node is None else str(node.name)


def send(store: RedisCluster, commands: Iterable[Command]) -> dict[Command, Exception]:
    """Commands in one round trip to each node; those that failed, and why. One node's failure is no other's."""
    by_node: dict[str, list[Command]] = {}
    for command in commands:
        by_node.setdefault(node_of(store, command[0]), []).append(command)
    failed: dict[Command, Exception] = {}
    is_lost = False
    for name, group in by_node.items():
        try:
            replies = _pipelined(store, name, group)
        except RedisError as error:
            failed |= dict.fromkeys(group, error)
            is_lost = True
            continue
        for command, reply in zip(group, replies, strict=True):
            if isinstance(reply, RedisError) and (refused := _sent_on(store, command)) is not None:
                failed[command] = refused
    if is_lost:
        _look_again(store)
    return failed


def _pipelined(store: RedisCluster, name: str, commands: list[Command]) -> list[Any]:
    node = store.get_node(node_name=name)  # type: ignore[no-untyped-call]
    if node is None:
        raise redis.ConnectionError(f"no node has the slots of {len(commands)} keys")
    batch = store.get_redis_connection(node).pipeline(transaction=False)
    for _, words in commands:
        batch.execute_command(*words)  # type: ignore[no-untyped-call]
    return batch.execute(raise_on_error=False)


def _sent_on(store: RedisCluster, command: Command) -> Exception | None:
    """Once more, to wherever its slot has moved or is moving; why it failed."""
    try:
        store.execute_command(*command[1])  # type: ignore[no-untyped-call]
    except (RedisError, RedisClusterException) as error:
        return error
    return None


def _look_again(store: RedisCluster) -> None:
    try:
        store.nodes_manager.initialize()
    except (RedisError, RedisClusterException):
        """Then the next time."""


def _generation(store: redis.Redis) -> str:
    info: Mapping[str, Any] = store.info("server", "replication")
    if info["role"] != "master":
        raise redis.ReadOnlyError("this Valkey is a replica")
    return layout.generation({name: str(value) for name, value in info.items()})


def _each_host(url: str) -> list[str]:
    whole = urlsplit(url)
    if whole.scheme == "unix":
        return [url]
    login, at, hosts = whole.netloc.rpartition("@")
    return [whole._replace(netloc=f"{login}{at}{host}").geturl() for host in hosts.split(",")]
