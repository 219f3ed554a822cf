"""`farebox import-stripe`: from Stripe Billing to here, with the customers and their cards staying where they are.

    records     what Stripe has, frozen: products, prices, meters, customers, subscriptions
    fetch       asks Stripe for it, and reads only
    prices      a price → a rate card, or why not
    proposal    all of it → meters, features, plans, customers, subscriptions, and a reason for whatever is none
    write       the proposal → the database, as often as you like
    commands    the command, which shows first and writes when told

Stripe goes on billing the period that runs. A subscription begins here where that period ends, on the same calendar,
and the list of what to cancel at Stripe at that moment comes with the proposal: nobody is billed twice, or not at all.
"""
