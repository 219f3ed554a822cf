"""The payment stand-in: Stripe's wire format, Stripe's test cards, and no money.

A separate HTTP service, so that the demo, the tests and production run the *same* Stripe adapter: only the base URL
differs. It keeps state, signs and retries webhooks, and fails on request (see `faults`). It is no copy of Stripe: what
it does not model it refuses by name, and it refuses live keys. Its pages say "Demo payments: no money moves".

    forms, shapes        what comes in: bracketed forms, and what an operation accepts of them
    wire                 what goes out: errors, lists, `expand`
    books, journal       the provider's records, in memory and in a file
    blanks               every field of every object, empty
    customers … tax      the things, each with its operations
    api                  the path of one request: key, permission, fault, idempotency, operation, answer
    deliveries, faults   webhooks, and everything that can go wrong on the way
    control, pages       for tests and people: `/__standin/…`, Checkout, customer portal, hosted invoice
"""
