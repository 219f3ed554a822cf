"""Metadata keys that mean something. All others are the operator's own, kept and never looked at.

    zuplo_private_plan              "true": not on the public price list; seen and bought by invitation (`invites`)
    zuplo_most_popular, popular     "true": set off from the others on the price list
    isCustom                        "true": no price but a way to get in touch, contactUrl under the words contactLabel
    zuplo_max_payment_overdue_days  "7": so many days an overdue payment is borne; before the configuration's, after
                                    that of the customer's metadata

The names are Zuplo's, whose documents are taken unchanged; so both true and "true" are understood. Anything else under
one of these keys is a fault: a plan meant to be private must not become public by "yes".
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from farebox_portal.errors import Fault, pointer

OVERDUE_DAYS_MAX = 365

_PRIVATE = "zuplo_private_plan"
_POPULAR = ("zuplo_most_popular", "popular")
_CUSTOM = "isCustom"
_OVERDUE_DAYS = "zuplo_max_payment_overdue_days"
# It becomes a link on a page: anything else than these could be a script.
_CONTACT_URL = re.compile(r"(https?://|mailto:)[^\s\"'<>]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PlanMarks:
    """What a plan's metadata says. `max_payment_overdue_days` None: nothing."""

    is_private: bool = False
    is_most_popular: bool = False
    is_custom: bool = False
    contact_url: str | None = None
    contact_label: str | None = None
    max_payment_overdue_days: int | None = None


def plan_marks(metadata: Mapping[str, Any]) -> PlanMarks:
    """The metadata of a plan without faults."""
    return PlanMarks(
        is_private=_flag(metadata.get(_PRIVATE)) is True,
        is_most_popular=any(_flag(metadata.get(key)) for key in _POPULAR),
        is_custom=_flag(metadata.get(_CUSTOM)) is True,
        contact_url=metadata.get("contactUrl"),
        contact_label=metadata.get("contactLabel"),
        max_payment_overdue_days=overdue_days(metadata),
    )


def overdue_days(metadata: Mapping[str, Any]) -> int | None:
    """A plan's or a customer's; None where it says nothing, or nothing that can be understood."""
    return _days(metadata.get(_OVERDUE_DAYS))


def metadata_faults(metadata: Any) -> Iterator[Fault]:
    """What stands under a key that means something, and means nothing."""
    if not isinstance(metadata, Mapping):
        return
    for key in (_PRIVATE, *_POPULAR, _CUSTOM):
        if metadata.get(key) is not None and _flag(metadata[key]) is None:
            yield {"pointer": pointer("metadata", key), "detail": 'must be "true" or "false"'}
    if metadata.get(_OVERDUE_DAYS) is not None and _days(metadata[_OVERDUE_DAYS]) is None:
        detail = f"must be a whole number of days from 0 to {OVERDUE_DAYS_MAX}"
        yield {"pointer": pointer("metadata", _OVERDUE_DAYS), "detail": detail}
    url, label = metadata.get("contactUrl"), metadata.get("contactLabel")
    if url is not None and not (isinstance(url, str) and len(url) <= 2048 and _CONTACT_URL.fullmatch(url)):
        yield {
            "pointer": "/metadata/contactUrl",
            "detail": "must be a URL that begins with https://, http:// or mailto:",
        }
    if label is not None and not (isinstance(label, str) and 0 < len(label) <= 256):
        yield {"pointer": "/metadata/contactLabel", "detail": "must be a text of 1 to 256 characters"}


def _flag(value: Any) -> bool | None:
    return {"true": True, "false": False}.get(str(value).lower()) if isinstance(value, str | bool) else None


def _days(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}", value, re.ASCII):
        value = int(value)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value <= OVERDUE_DAYS_MAX else None
