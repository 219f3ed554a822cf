"""Experiments on the running product: real processes, real load, one fault, and then the books are compared.

    cd tests && ../.venv/bin/python -m faults --all --seed 1     every experiment, as a table; status 1 on a violation
    cd tests && ../.venv/bin/python -m faults C2 B1 --seed 7     some of them
    cd tests && ../.venv/bin/python -m faults A1 --transport h2 --database postgresql       with other parts
    .venv/bin/pytest tests/faults                                the part that every change has to pass

The rig (rig.py), with a proxy wherever a network can be in the way:

    client ─▶ Envoy ─▶ plugin, 2 workers ─▶ proxy ─▶ Valkey (AOF everysec) ◀─ proxy ─┐
                │            └────────────▶ proxy ─▶ portal ─────────────────────────┘
                └───▶ upstream, which keeps      └─▶ SQLite or PostgreSQL
                      its own record

An experiment (experiments.py, run.py) sells a plan to customers of its own, loads the gateway (load.py) with more than
the plan allows and a share of strangers, does its damage in the middle, waits until everything is well, and fills the
quota to its last unit. Then ``check`` (check.py) compares five accounts of the same requests: what the clients were
answered, what the upstream served, what the spools say, what the ledger has, and what stands in Valkey.

The seed decides the load (who asks what, in which order) and the moments of the damage. What the kernel's scheduler
does with it is its own affair: a failing seed is a good place to look, not a recording.
"""
