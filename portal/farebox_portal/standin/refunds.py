"""What comes back: refunds, disputes, and credit notes. An invoice stays paid through all of them."""

from farebox_portal.standin.books import Books
from farebox_portal.standin.customers import merge_metadata
from farebox_portal.standin.events import emit
from farebox_portal.standin.operation import Operation
from farebox_portal.standin.shapes import PAGE, Choice, Metadata, Range, Shape, Text, Whole
from farebox_portal.standin.wire import Document, Given, Refused, page

DAY_S = 24 * 3600


def check_refundable(charge: Document, amount: int | None = None) -> int:
    """How much is to be given back: `amount`, or all that is left. Raises Refused."""
    left: int = charge["amount"] - charge["amount_refunded"]
    if not charge["paid"]:
        raise Refused(400, "This charge did not succeed, and cannot be refunded.", param="charge")
    if charge["disputed"]:
        raise Refused(
            400, f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed"
        )
    if left == 0:
        raise Refused(400, f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    if amount is not None and amount > left:
        raise Refused(
            400, f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})", param="amount"
        )
    return left if amount is None else amount


def refund(books: Books, charge: Document, amount: int | None = None, reason: str | None = None) -> Document:
    """Give back `amount` (minor units; all that is left, without it). Raises Refused."""
    amount = check_refundable(charge, amount)
    made = books.add(
        "refund",
        "re",
        amount=amount,
        charge=charge["id"],
        currency=charge["currency"],
        payment_intent=charge["payment_intent"],
        reason=reason,
    )
    before = {"amount_refunded": charge["amount_refunded"], "refunded": charge["refunded"]}
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    books.save(charge)
    emit(books, "refund.created", made)
    emit(books, "charge.refunded", charge, before)
    return made


def dispute(books: Books, charge: Document, *, inquiry: bool = False) -> Document:
    """The cardholder's bank takes the money back; an inquiry only asks, and takes nothing yet."""
    if not charge["paid"] or charge["disputed"]:
        raise Refused(400, "Only a paid charge can be disputed, and once.")
    made = books.add(
        "dispute",
        "du",
        amount=charge["amount"],
        charge=charge["id"],
        currency=charge["currency"],
        is_charge_refundable=inquiry,
        payment_intent=charge["payment_intent"],
        status="warning_needs_response" if inquiry else "needs_response",
    )
    made["evidence_details"]["due_by"] = books.now() + 7 * DAY_S
    charge["disputed"] = not inquiry
    books.save(charge)
    emit(books, "charge.dispute.created", made)
    if not inquiry:
        emit(books, "charge.dispute.funds_withdrawn", made)
    return made


def close_dispute(books: Books, document: Document, outcome: str) -> Document:
    """`outcome`: won or lost; of an inquiry, only that it is closed."""
    inquiry = document["status"].startswith("warning_")
    document["status"] = "warning_closed" if inquiry else outcome
    books.save(document)
    emit(books, "charge.dispute.closed", document)
    if outcome == "won" and not inquiry:
        charge = books.get("charge", document["charge"])
        charge["disputed"] = False
        books.save(charge)
        emit(books, "charge.dispute.funds_reinstated", document)
    return document


def charge_of(books: Books, given: Given) -> Document:
    """The charge that is meant, by its own id or its intent's."""
    if "charge" in given:
        return books.get("charge", given["charge"], param="charge", status=400)
    intent = books.get("payment_intent", given.get("payment_intent", ""), param="payment_intent", status=400)
    if intent["status"] != "succeeded":
        raise Refused(
            400,
            f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.",
            param="payment_intent",
        )
    return books.get("charge", intent["latest_charge"])


def _create(books: Books, given: Given) -> Document:
    if ("charge" in given) == ("payment_intent" in given):
        raise Refused(400, "Specify exactly one of charge and payment_intent.", param="charge")
    made = refund(books, charge_of(books, given), given.get("amount"), given.get("reason"))
    merge_metadata(made, given)
    return made


def _retrieve(books: Books, given: Given) -> Document:
    return books.get("refund", given["id"])


def _list(books: Books, given: Given) -> Document:
    equal = {name: given.get(name) for name in ("charge", "payment_intent")}
    return page(books.newest("refund", given.get("created"), **equal), given, "/v1/refunds")


def _dispute(books: Books, given: Given) -> Document:
    return books.get("dispute", given["id"])


def _disputes(books: Books, given: Given) -> Document:
    equal = {name: given.get(name) for name in ("charge", "payment_intent")}
    return page(books.newest("dispute", given.get("created"), **equal), given, "/v1/disputes")


_NEW: dict[str, Shape] = {
    "amount": Whole(1), "charge": Text(), "metadata": Metadata(), "payment_intent": Text(),
    "reason": Choice("duplicate", "fraudulent", "requested_by_customer"),
}  # fmt: skip
_FILTER: dict[str, Shape] = {"charge": Text(), "created": Range(), "payment_intent": Text()}

OPERATIONS = (
    Operation("POST", "/v1/refunds", "refund_write", _create, _NEW),
    Operation("GET", "/v1/refunds", "refund_read", _list, PAGE | _FILTER),
    Operation("GET", "/v1/refunds/{id}", "refund_read", _retrieve),
    Operation("GET", "/v1/disputes", "dispute_read", _disputes, PAGE | _FILTER),
    Operation("GET", "/v1/disputes/{id}", "dispute_read", _dispute),
)
