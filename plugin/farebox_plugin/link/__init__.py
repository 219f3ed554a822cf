"""The plugin's connection to Valkey, one server or a cluster: which it is, the server says.

    link.py     what is asked where: everything of the one server, or each key of the master that has its slot
    server.py   one server: a connection that is remade, its incarnation, its clock
    slots.py    key -> slot, and who has which slots

A *generation* is of one server. What was written on one incarnation of one node is believed there and nowhere else, so
a script names the generation of the server that it is sent to, and is never sent on to another: a slot that moves has
its accounts rebuilt by their next request. Everything else follows a slot that has moved or is moving.
"""

from farebox_plugin.link.link import Link
from farebox_plugin.link.server import Done, Elsewhere, Reply, Script, Server, StoreFault

__all__ = ["Done", "Elsewhere", "Link", "Reply", "Script", "Server", "StoreFault"]
