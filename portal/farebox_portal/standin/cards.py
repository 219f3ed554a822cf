"""The test cards: what each does when it is set up, and when it is charged. No other number is accepted, by design:
nobody should type a real one here."""

from dataclasses import dataclass
from typing import Any

from farebox_portal.standin.wire import Refused


@dataclass(frozen=True)
class Card:
    """`at_setup`, `at_charge`: None (it works), `authenticate` (3-D Secure), or the decline code."""

    number: str
    label: str
    at_setup: str | None
    at_charge: str | None

    @property
    def shown(self) -> dict[str, Any]:
        """As a payment method shows it."""
        return {
            "brand": "visa", "display_brand": "visa", "country": "US", "exp_month": 12, "exp_year": 2034,
            "fingerprint": f"standin{self.number[-4:]}", "funding": "credit", "last4": self.number[-4:],
            "checks": {"address_line1_check": None, "address_postal_code_check": "pass", "cvc_check": "pass"},
            "generated_from": None, "networks": {"available": ["visa"], "preferred": None},
            "regulated_status": "unregulated", "three_d_secure_usage": {"supported": True}, "wallet": None,
        }  # fmt: skip


CARDS = {
    card.number: card
    for card in (
        Card("4242424242424242", "Pays", None, None),
        Card("4000000000003220", "Asks for authentication (3-D Secure) each time", "authenticate", "authenticate"),
        Card("4000000000000341", "Is accepted, and declined when it is charged", None, "generic_decline"),
        Card("4000000000009995", "Is declined at once: insufficient funds", "insufficient_funds", "insufficient_funds"),
    )
}

# The same cards as Stripe lends them without a page, by its names for them.
LENT = {
    "pm_card_visa": "4242424242424242",
    "pm_card_threeDSecure2Required": "4000000000003220",
    "pm_card_chargeCustomerFail": "4000000000000341",
}

DECLINES = {
    "generic_decline": ("card_declined", "Your card was declined."),
    "insufficient_funds": ("card_declined", "Your card has insufficient funds."),
    "lost_card": ("card_declined", "Your card was declined."),
    "expired_card": ("expired_card", "Your card has expired."),
    "processing_error": (
        "processing_error",
        "An error occurred while processing your card. Try again soon.",
    ),
}


def card_of(number: str) -> Card:
    found = CARDS.get(number.replace(" ", ""))
    if found is None:
        raise Refused(400, "The payment stand-in knows its test cards alone.", code="incorrect_number")
    return found


def decline(decline_code: str, **more: Any) -> Refused:
    code, message = DECLINES[decline_code]
    return Refused(402, message, code=code, decline_code=decline_code, error_type="card_error", **more)
