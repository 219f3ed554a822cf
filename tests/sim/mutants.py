"""The protocol with one guard taken out: each of these must be found out, or the simulation proves nothing.

A mutant is a change to the real text, of a script or of a function; a text that is no longer there is an error, so a
mutant cannot quietly become the original.
"""

import contextlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from farebox_plugin import admission, settlement
from farebox_plugin.admission import Admission
from farebox_plugin.keeper import rebuild
from farebox_plugin.keeper.index import Index
from farebox_plugin.keeper.peers import Peers
from farebox_plugin.keeper.rebuild import Rebuilder
from farebox_plugin.keeper.ship import Shipper
from farebox_plugin.keeper.sweep import Sweeper
from farebox_plugin.link import Script


@dataclass(frozen=True)
class InScript:
    """A change to a script, where a module refers to it."""

    module: Any
    name: str
    text: str
    instead: str


@dataclass(frozen=True)
class InCode:
    """A change to a function, or to a method of a class."""

    owner: Any  # the class or the module
    name: str
    text: str
    instead: str


Mutant = tuple[InScript | InCode, ...]

MUTANTS: dict[str, Mutant] = {
    "the limit is not looked at": (InScript(admission, "ADMIT", "if limit[i] >= 0 and", "if false and"),),
    "counted at the end instead of held": (
        InScript(admission, "ADMIT", "if more[i] > 0 then redis.call('HINCRBY'", "if false then redis.call('HINCRBY'"),
    ),
    "a suspect passes for an admission": (
        InScript(admission, "ADMIT", "if known_hold and mark ~= '?' then", "if known_hold then"),
    ),
    "admission takes any generation": (
        InScript(admission, "ADMIT", "if late or state[1] ~= generation then", "if late then"),
    ),
    "a repeated Check is counted again": (
        InScript(admission, "ADMIT", "local mark = known_hold and", "known_hold = nil local mark = known_hold and"),
    ),
    # With the hold left in the place of the tombstone, a repetition has something to apply again.
    "settling twice applies twice": (
        InScript(settlement, "SETTLE", "rid, left[rid] or tombstone", "rid, left[rid] or hold or tombstone"),
    ),
    "no tombstone": (
        InScript(
            settlement, "SETTLE", "'HSET', holds, unpack(writes)", "'HDEL', holds, unpack(ARGV, first + 1, first + m)"
        ),
    ),
    "who gives up takes it from the others": (InScript(settlement, "SETTLE", "#others > 0 and", "false and"),),
    "rebuilt from the ledger alone": (
        InCode(
            Rebuilder,
            "_load_with",
            "admission_state(message, state, pending.unshipped, pending.open_requests)",
            "admission_state(message, state, [], [])",
        ),
    ),
    "rebuilt without the open requests": (
        InCode(
            Rebuilder,
            "_load_with",
            "admission_state(message, state, pending.unshipped, pending.open_requests)",
            "admission_state(message, state, pending.unshipped, [])",
        ),
    ),
    "rebuilt from what was read last": (
        InCode(Peers, "pending", "self._index.catch_up(asyncio.get_running_loop().time())", "pass"),
    ),
    "rebuilt without regard to the ledger's cursors": (
        InCode(Peers, "pending", "self._index.unshipped_of(account, cursors)", "self._index.unshipped_of(account, {})"),
    ),
    "what is shipped during a rebuild is forgotten without a word": (
        InCode(Peers, "pending", "if self._index.is_behind(cursors):", "if False:"),
    ),
    "rebuilt with the holds of the plan before": (
        InCode(
            rebuild,
            "admission_state",
            "_on_todays_counters(subscriptions.get(request.grant.subscription), request)",
            "request.hold_of_all",
        ),
    ),
    "rebuilt without the other gateways": (InCode(Peers, "gather", "if gateway.name != self.name]", "if False]"),),
    "a gateway that does not answer is left out": (
        InCode(Peers, "_ask", "if gateway.is_live:\n        raise", "if False:\n        raise"),
    ),
    "who answers does not mind what is rebuilt from it": (
        InCode(Peers, "pending", "if question.is_rebuild:", "if question.is_rebuild and question.asker == self.name:"),
    ),
    "a token for an account that is loaded": (
        InScript(rebuild, "BEGIN", "if redis.call('HGET', KEYS[2], 'gen') == ARGV[4] then", "if false then"),
    ),
    "rebuilt without a token": (
        InScript(rebuild, "LOAD", "if redis.call('GET', KEYS[3]) ~= ARGV[2] then return -1 end", ""),
    ),
    "shipped before the receipt": (
        InCode(Shipper, "ship_all", "receipt = await", "self._index.shipped(spool, end); receipt = await"),
    ),
    "the checkpoint forgets open requests": (InCode(Index, "checkpoint", "in self.open_requests()", "in ()"),),
    "no intents": (InCode(Admission, "_send", "self._spool.append(intents)", "pass"),),
    "nobody notes who was let in": (InCode(Admission, "_answers_came", "if records:", "if False:"),),
    "an unknown outcome is not taken back": (
        InCode(Admission, "_close", "self._settlements.take_back(rid, account)", "pass"),
    ),
    "nobody sweeps": (InCode(Sweeper, "sweep", "for request in self._index.open_requests():", "for request in ():"),),
    "the sweeper gives back what is being asked": (
        InCode(Sweeper, "sweep", "elif age_s > INTENT_GRACE_S and not live & request.claims.keys():", "else:"),
    ),
    "a refusal that crosses a rebuild stays held": (
        InCode(Sweeper, "sweep", "self._take_back(self._looked_at, rebuilt=True)", "pass"),
    ),
    "what the dead had to say is not repeated": (InCode(Sweeper, "worker_died", "self._settlements.repeat(", "("),),
}


@contextlib.contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The code under test, changed; put back at the end. Raises LookupError if a text is not there exactly once."""
    with contextlib.ExitStack() as stack:
        for change in mutant:
            if isinstance(change, InScript):
                original: Any = getattr(change.module, change.name)
                changed: Any = Script(_changed(original.source.decode(), change))
                stack.callback(setattr, change.module, change.name, original)
                setattr(change.module, change.name, changed)
            else:
                original = getattr(change.owner, change.name)
                stack.callback(setattr, change.owner, change.name, original)
                setattr(change.owner, change.name, _compiled(original, change))
        yield


def _compiled(original: Callable[..., Any], change: InCode) -> Callable[..., Any]:
    source = _changed(textwrap.dedent(inspect.getsource(original)), change)
    module = sys.modules[original.__module__]
    names: dict[str, Any] = {}
    exec(compile(source, f"<mutant of {change.name}>", "exec"), vars(module), names)
    made: Callable[..., Any] = names[change.name]
    return made


def _changed(source: str, change: InScript | InCode) -> str:
    if source.count(change.text) != 1:
        raise LookupError(f"{change.name} has {source.count(change.text)} times: {change.text}")
    return source.replace(change.text, change.instead)
