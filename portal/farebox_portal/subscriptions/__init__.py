"""Who has which plan, from when to when, and the keys that come with it.

life           one transition table: facts of a life and a command -> a life, or a refusal (pure)
stretches      a life cut where plan, phase or pause changes: what entitlements and fees read (pure)
credit         what a change of plan gives back of fees paid in advance (pure)
tables, rows   the tables, and lives in and out of them
lifecycle      order one, and take each step in one transaction, with its entry in the audit log
plan_change    another plan: planned, previewed, carried out
document       a subscription as the API shows it, with everything that is scheduled
keys           API keys: issue, rotate, revoke
advance        putting the test clock forward
routes, change_routes, clock_routes
"""
