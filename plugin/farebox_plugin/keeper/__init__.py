"""The parent process of the workers, off every request's path.

run        composes it: one spool directory, one lock, one loop
supervise  keeps the workers alive
index      what all spools of this host say: which requests are open, what the ledger does not have yet
ship       spool -> the portal's ledger
rebuild    ledger + spools -> an account's admission state in Valkey
sweep      closes what a crash left open
"""
