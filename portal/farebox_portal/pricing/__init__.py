"""Pure: what is owed, for which stretch of time, and what credit is left. Nothing here reads a clock or a database.

A document becomes a rate card (`documents`, `card`), a rate card and a quantity become lines (`rate`, one model per
file), what was billed already is taken off (`progressive`), a coupon makes lines cheaper (`coupons`), credits and tax
make the bill (`settle`).

Money is an integer of minor units (`money`), a unit price a Decimal, a share of something a Fraction; never a float.
"""
