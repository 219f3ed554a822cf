"""The parent process of the workers, off every request's path.

run         composes it: one spool directory, one lock, one loop
supervise   keeps the workers alive
membership  one of several gateways: its name, its heartbeat, its leaving
index       what all spools of this host say: which requests are open, what the ledger does not have yet
ship        spool -> the portal's ledger
peers       what the other gateways' spools say
rebuild     ledger + all spools -> an account's admission state in Valkey
reconcile   Valkey against that truth
sweep       closes what a crash left open
"""
