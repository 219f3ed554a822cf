"""Customers: make, find, change; and `touch`, which is how a change reaches the gateway."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints
from sqlmodel import Session, col, or_, select, update
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal import ids
from farebox_portal.catalog.currencies import check_currency
from farebox_portal.customers.tables import Customer
from farebox_portal.documents import Input, Instant, Metadata, Name, Output
from farebox_portal.errors import Conflict, Fault, NotFound


def _check_key(key: str) -> str:
    if ids.is_id(key):
        raise ValueError("must not look like one of our ids, as a customer is found by either")
    if key in (".", ".."):
        raise ValueError("must not be a dot or two, as it stands in paths")
    return key


# It travels to the upstream as a header (`x-farebox-customer`) and stands in paths. Beyond that it is the operator's
# own: `google-oauth2|1234` and e-mail addresses are common.
CustomerKey = Annotated[str, StringConstraints(pattern=r"^[!-.0-~]{1,128}$"), AfterValidator(_check_key)]
Email = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$", max_length=254)]
Currency = Annotated[str, AfterValidator(check_currency)]


class CustomerInput(Input):
    key: CustomerKey
    name: Name
    primary_email: Email | None = None
    currency: Currency | None = None
    metadata: Metadata = Field(default_factory=dict)


class CustomerChange(Input):
    """What is left out stays; null clears; metadata is replaced as a whole. The key never changes."""

    name: Name = ""
    primary_email: Email | None = None
    currency: Currency | None = None
    metadata: Metadata = Field(default_factory=dict)


class CustomerDocument(Output):
    id: str
    key: str
    name: str
    primary_email: str | None
    currency: str | None
    metadata: dict[str, Any]
    created_at: Instant
    updated_at: Instant


def is_by_hand(customer: Customer) -> bool:
    """Whether this customer pays by bank transfer although there is a provider: metadata `payment_provider: manual`."""
    return customer.metadata_.get("payment_provider") == "manual"


def show(customer: Customer) -> CustomerDocument:
    return CustomerDocument(
        id=customer.id,
        key=customer.key,
        name=customer.name,
        primary_email=customer.primary_email,
        currency=customer.currency,
        metadata=customer.metadata_,
        created_at=customer.created_at,
        updated_at=customer.updated_at,
    )


def create(session: Session, wanted: CustomerInput, now: datetime) -> Customer:
    """Raises Conflict when the key is taken."""
    taken = session.exec(select(Customer).where(Customer.key == wanted.key)).first()
    if taken is not None:
        past = " by a customer that was deleted; the ledger still names it" if taken.deleted_at else ""
        raise Conflict(f"This customer key is taken{past}.", code="customer_key_taken")
    customer = Customer(
        id=ids.new_id(now),
        key=wanted.key,
        name=wanted.name,
        primary_email=wanted.primary_email,
        currency=wanted.currency,
        metadata_=wanted.metadata,
        created_at=now,
        updated_at=now,
    )
    session.add(customer)
    session.flush()
    return customer


def get(session: Session, id_or_key: str, *, faults: tuple[Fault, ...] = ()) -> Customer:
    """Raises NotFound. `faults` say where a document named it."""
    found = session.exec(every().where(or_(Customer.id == id_or_key, Customer.key == id_or_key))).first()
    if found is None:
        raise NotFound("There is no such customer.", code="customer_not_found", errors=faults)
    return found


def every() -> SelectOfScalar[Customer]:
    return select(Customer).where(col(Customer.deleted_at).is_(None)).order_by(col(Customer.id))


def change(session: Session, customer: Customer, wanted: CustomerChange, now: datetime) -> Customer:
    said = wanted.model_fields_set
    if "name" in said:
        customer.name = wanted.name
    if "primary_email" in said:
        customer.primary_email = wanted.primary_email
    if "currency" in said:
        customer.currency = wanted.currency
    if "metadata" in said:
        customer.metadata_ = wanted.metadata
    customer.updated_at = now
    session.add(customer)
    return customer


def touch(session: Session, customer_id: str) -> None:
    """Have the account published anew: call it in the transaction of whatever changes what its keys may do.

    Also takes the account's row lock, so that of two changes to one account the second sees the first: call it before
    reading what the change depends on.
    """
    session.exec(
        update(Customer)
        .where(col(Customer.id) == customer_id)
        .values(entitlements_version=Customer.entitlements_version + 1)
        .execution_options(synchronize_session="fetch")
    )
