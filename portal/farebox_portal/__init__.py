"""The companion service: catalog, customers, subscriptions, keys, the usage ledger; soon invoices and payments.

Owns everything that knows a calendar, a price or a person. Does not decide requests: it compiles plans into plain
numbers and publishes them, and the plugin evaluates those.

Reading order, which is also the order of imports (each may import the ones before it, never after):

    clock, errors, settings   what everything stands on
    pricing/                  pure: billing periods (and, later, money)
    db, ids, auth             one transaction per request or job; who is calling
    catalog/                  meters, features, plans, policies
    customers/                who buys
    subscriptions/            who bought what, and the API keys that came with it
    usage/                    the ledger: store each settled request once, and add it up
    entitlements/             compile subscriptions into numbers, publish them to Valkey
    app, jobs, seed           compose it
    demo/                     the whole product on one machine
    cli                       `farebox …`
"""
