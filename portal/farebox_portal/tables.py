"""Every table, gathered: what the migrations must add up to."""

from sqlmodel import SQLModel

from farebox_portal import audit, idempotency, testclock
from farebox_portal.catalog import tables as catalog
from farebox_portal.customers import tables as customers
from farebox_portal.entitlements import tables as entitlements
from farebox_portal.invoicing import tables as invoicing
from farebox_portal.payments import tables as payments
from farebox_portal.subscriptions import tables as subscriptions
from farebox_portal.usage import grant_rows
from farebox_portal.usage import tables as usage
from farebox_portal.wallet import tables as wallet

MODULES = (
    *(catalog, customers, subscriptions, usage, grant_rows, wallet, invoicing, payments, entitlements),
    *(idempotency, audit, testclock),
)
metadata = SQLModel.metadata
