"""The states of an invoice, and every way from one to another. Pure.

    draft ──┬── issued ──┬── paid
            │     ▲  │   │
            └── held │   ├── overdue ── (as issued)
                     │   └── uncollectible ── paid
    all but paid ────┴── void

A draft collects lines, `gathering` is what comes before it: it is computed, never stored (GET …/invoices/upcoming).
"""

from collections.abc import Mapping
from typing import Literal

from farebox_portal.errors import Conflict

Status = Literal["draft", "held", "issued", "paid", "overdue", "uncollectible", "void"]
Verb = Literal["issue", "hold", "pay", "settle", "expire", "void", "mark_uncollectible", "credit"]
STATUSES: tuple[Status, ...] = ("draft", "held", "issued", "paid", "overdue", "uncollectible", "void")
OPEN: frozenset[Status] = frozenset({"issued", "overdue"})

_REFUSALS = {
    "invoice_not_issued": "The invoice has not been issued; finalize it first.",
    "invoice_already_issued": "The invoice was issued already.",
    "invoice_paid": "The invoice is paid; give a credit note instead.",
    "invoice_void": "The invoice is void.",
    "invoice_uncollectible": "The invoice was given up.",
    "invoice_not_due": "The invoice is not open.",
}
_ISSUED, _PAID, _VOID, _NOT_YET = "invoice_already_issued", "invoice_paid", "invoice_void", "invoice_not_issued"

# In the order of STATUSES: the state that the verb leads to, or the code of the refusal.
_Row = tuple[str, str, str, str, str, str, str]
TABLE: Mapping[Verb, _Row] = {
    "issue": ("issued", "issued", _ISSUED, _ISSUED, _ISSUED, _ISSUED, _VOID),
    "hold": ("held", "held", _ISSUED, _ISSUED, _ISSUED, _ISSUED, _VOID),
    "pay": (_NOT_YET, _NOT_YET, "paid", _PAID, "paid", "paid", _VOID),
    # Nothing is left to pay, because the total is 0 or a credit note took back the rest.
    "settle": (_NOT_YET, _NOT_YET, "paid", "paid", "paid", "paid", _VOID),
    "expire": (_NOT_YET, _NOT_YET, "overdue", _PAID, "overdue", "invoice_uncollectible", _VOID),
    "void": ("void", "void", "void", _PAID, "void", "void", _VOID),
    "mark_uncollectible": (
        _NOT_YET,
        _NOT_YET,
        "uncollectible",
        _PAID,
        "uncollectible",
        "invoice_uncollectible",
        _VOID,
    ),
    "credit": (_NOT_YET, _NOT_YET, "issued", "paid", "overdue", "uncollectible", _VOID),
}


def after(status: str, verb: Verb) -> Status:
    """Raises Conflict with the code that TABLE has."""
    cell = TABLE[verb][STATUSES.index(status)]
    if cell in STATUSES:
        return cell
    raise Conflict(_REFUSALS[cell], code=cell)
