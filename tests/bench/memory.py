"""How much memory everything takes at rest, and how much more for each 100 000 keys."""

from collections.abc import Mapping

from redis import Redis

from bench import cases
from bench.cases import Farebox
from bench.cpu import resident_bytes
from bench.figures import Figure, Row
from bench.gateway import Plan, ask_once

MB = 1e6
KEYS_EACH = 100  # as many as a subscription may have
KEYS, ACCOUNTS = 100_000, 10_000  # for so many the growth is shown


def memory(plan: Plan) -> tuple[tuple[Row, ...], tuple[Figure, ...]]:
    """At rest; with many keys of some accounts; and with many accounts of one key. Each key is used once, so that the
    worker remembers it, and its account has counters in the store."""
    with cases.farebox() as gateway:
        gateway.rest()
        rest = _bytes(gateway)
        keys = _used(gateway, plan.keys // KEYS_EACH, KEYS_EACH)
        figures = [Figure("memory", f"{name} at rest", size / MB, "MB") for name, size in rest.items()]
        figures += _growth(rest, keys, KEYS, plan.keys, f"keys, {KEYS_EACH} in an account")
        if plan.lone_accounts:
            accounts = _used(gateway, plan.lone_accounts, 1)
            figures += _growth(keys, accounts, ACCOUNTS, plan.lone_accounts, "accounts of one key")
    # Not scaled: memory does not grow evenly, so only runs with as many keys can be compared.
    figures.append(
        Figure("memory", f"worker with {plan.keys} keys : at rest", keys["worker"] / rest["worker"], "times")
    )
    return (), tuple(figures)


def _used(gateway: Farebox, accounts: int, keys_each: int) -> dict[str, int]:
    """Memory after each of so many new keys was used."""
    ask_once(gateway, gateway.many(accounts, keys_each))
    gateway.rest()
    return _bytes(gateway)


def _bytes(gateway: Farebox) -> dict[str, int]:
    """Resident memory of each process; of Valkey what its data takes."""
    (worker,) = gateway.workers
    with Redis.from_url(gateway.store.url) as store:
        data = int(store.info("memory")["used_memory"])
    processes = {
        "worker": worker,
        "keeper": gateway.keeper,
        "Envoy": gateway.envoy.pid,
        "portal": gateway.portal,
    }
    return {name: resident_bytes(pid) for name, pid in processes.items()} | {"Valkey's data": data}


def _growth(before: Mapping[str, int], after: Mapping[str, int], shown: int, measured: int, what: str) -> list[Figure]:
    """By process, for ``shown`` keys or accounts; so many were measured."""
    grown = {
        name: (after[name] - before[name]) * shown / measured for name in before if name not in ("Envoy", "portal")
    }
    remark = "" if measured == shown else f" (measured with {measured})"
    return [Figure("memory", f"{name}, per {shown} {what}{remark}", size / MB, "MB") for name, size in grown.items()]
