"""Credit that is paid ahead, or granted: what customers and operators do with it.

    credits     granting and voiding; money, or units of a feature
    top_ups     buying: an invoice of its own, and the credit once it is paid
    recharge    buying by itself when little is left
    booking     what became of the money in credit: used up, lapsed, refunded
    show, routes    /v1/customers/{id}/credits, /wallet

Two kinds, which never mix:

    money   pays invoices, whatever is on them, before the customer is asked for any        `invoicing.close`
    units   are what the gateway lets be used of a hard limit, and not one more             `usage.balances`

One wallet of money from which the gateway took at once and invoices took as well could not be exact: an invoice would
spend what a request in flight has just been let in for. So how many units an amount buys is settled when it is bought.
What several meters cost is said by policies, as quantities of one meter (`{"credits": 10}`); so one counter is enough,
and the gateway's decision stays one comparison.
"""
