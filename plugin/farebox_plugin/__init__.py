"""The hot path: Envoy asks it on every request, and it answers without SQL, calendar or prices.

A request's path through these files, in order:

    authz        Authorization/Check: read, look up, admit, answer
    call         Envoy's message -> Call
    directory    what is known: key records, policies, accounts (cached, invalidated by the server)
    terms        (pure) account + policy + instant -> what this call is held to, or the refusal
    admission    all requests of one loop turn -> spool the intents, one script call, spool what was let through
    link         the connection to Valkey; scripts/*.lua decide
    answer       (pure) decision -> Envoy's words

and the response's path back:

    access_log   feed 1: Envoy's access log, batched
    ext_proc     feed 2: the response body, where a policy meters what is in it
    measure/     (pure) response -> quantities
    settlement   spool the truth first, then release the hold

Beside them `spool` (the append-only truth until the ledger has it), `worker` (composes one serving process) and
`keeper/` (the parent process: keeps workers alive, ships spools, rebuilds accounts, closes what a crash left open).
"""
