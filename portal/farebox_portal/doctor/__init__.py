"""`farebox doctor`: what should be known before strangers pay, asked of everything that knows it, and changed nowhere.

Each file is one check or a few that look at the same things: a frozen record of facts, `read` that fills it, and a pure
function from the facts to findings. A finding says what is the case and what to do about it. `run` goes through the
list; a check whose ground is missing (no database, no Valkey) is skipped and says so, and one that breaks is a finding.

    report          findings, checks, and the document that `--json` prints
    authentication  whose tokens these are              payments   mode and permissions, billing profile, webhooks
    database        is it there, is its schema ours     lifecycle  is what is due being done
    catalog         do the names of plans, meters, features and policies fit together
    quota           Valkey, gateways, and whether counters equal the ledger
    grace           how long what is unpaid is borne    books      the ledger of money
    envoy/          a configuration of Envoy that lets nobody past the till
"""
