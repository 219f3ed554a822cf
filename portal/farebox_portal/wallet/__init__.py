"""What customers have paid ahead, or were given: lots of credit, and who bought them.

    tables       lots, top-ups, auto-recharge
    purse        the money of a customer that may pay an invoice now, in burn order
    purchases    a top-up that was paid becomes a lot, once

Invoicing burns the money (`invoicing.close`), the gateway counts the units (`usage.balances`), and `prepaid` does what
customers and operators ask for.
"""
