"""Every period becomes exactly one correct invoice: read facts, compute, write.

    close      what is due is found, locked, read, and taken step by step           job, farebox clock, test clock
      steps        when a subscription is invoiced (pure)
      charges      a life in stretches -> what is charged for which period, and when it is due (pure)
      rated        charges and the ledger's quantities -> lines
      fees         what a flat fee comes to at an instant, and what it gives back (pure)
      books        everything about some subscriptions, read in a few statements
      compose      what is due less what was billed -> new lines, credits (pure)
      adjust       coupon, credits, tax (pure)
      minimum, sanity, checks   what is too little to charge, looks wrong, or does not add up (pure)
      paper        an invoice in the making
      document     what is issued, to the byte (pure)
      ledger       money that moves, in double entry
      write        all of it into the database, numbers without gaps
    status     the states of an invoice, and every way from one to another (pure)
    actions    finalize, pay, void, mark uncollectible
    verify     all books at once, for operators: everything of `checks` that can be seen in what is stored
    credit_notes, replay, line_usage, show, words, page, pdf, routes            /v1/invoices

Choices that are not obvious:

* Fees in advance are invoiced when they come due, usage after the collection window, on one invoice for each billing
  period: the fees of the next one and the usage of the one that is over. Until the window is over it is a draft.
* What is left of a fee is never a negative line. It is a credit, which pays fees of later invoices, as far as the very
  fee was paid; what no fee uses up stays where the subscription ends, for an operator to refund.
* What is less than can be charged stays on the draft, line by line, and the next period's lines join it.
* Voiding waives what was on the invoice. `rebill` makes another one of the same charges at once.
"""
