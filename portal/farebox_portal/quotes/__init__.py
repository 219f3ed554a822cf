"""What something would cost, before anybody pays: by the same engine as the invoice, and nothing is written.

What is charged for which period, and how much that is, stands in `invoicing/charges` and `invoicing/rated`.

quote      lines as documents
card       one rate card and a quantity
preview    a rate card or a plan and made-up usage          POST /v1/pricing/preview
upcoming   a subscription's next invoice, so far            GET /v1/subscriptions/{id}/invoices/upcoming
limits     what hard limits would have refused
simulate   real past usage under another plan               POST /v1/pricing/simulations
routes     these over HTTP
commands   farebox rate, farebox simulate
"""
