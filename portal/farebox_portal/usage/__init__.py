"""The ledger: every settled request stored once, and added up. Bills and quotas are computed from nothing else.

tables   the rows
ingest   a batch from a plugin's spool -> rows and cursor, in one transaction
book     rows -> the ledger and its hourly sums, each once
totals   how much of a meter a subscription used between two instants
gateways who may still have usage that is not here
grants   what a plan allows (pure)
balances what may be used of an entitlement: the plan's and what was granted beside it (pure)
grant_rows, granting, grant_routes   units granted to a subscription: the rows, the steps, over HTTP
lag      how far the ledger is taken to be complete
segment_totals   what was used between the changes that a balance depends on
access   a subscription's allowances and what is left of them
query    a meter in windows and groups
routes   /v1/subscriptions/{id}/usage, /v1/meters/{idOrSlug}/query, /v1/gateways
"""
