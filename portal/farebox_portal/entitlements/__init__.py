"""From subscriptions to the plain numbers that the plugin decides by, and their way into Valkey.

tables   what the publisher remembers
facts    everything about an account that its document is made from
limits   what a counter may reach where units were granted, or overage is carried over (pure)
used     adds what was used to the facts of those whose limits depend on it
compile  facts -> Account, policies -> Policies (pure)
publish  what changed -> Valkey; everything -> a Valkey that has lost its memory
state    an account and its counters as the ledger has them, for the plugin to rebuild admission from
routes   /internal/v1, for the plugin only
"""
