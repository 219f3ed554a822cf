"""The ledger: every settled request stored once, and added up. Bills and quotas are computed from nothing else.

tables   the rows
ingest   a batch from a plugin's spool -> rows and cursor, in one transaction
book     rows -> the ledger and its hourly sums, each once
totals   how much of a meter a subscription used between two instants
gateways who may still have usage that is not here
grants   what a plan allows (pure)
access   a subscription's allowances and what is left of them
query    a meter in windows and groups
routes   /v1/subscriptions/{id}/usage, /v1/meters/{idOrSlug}/query, /v1/gateways
"""
