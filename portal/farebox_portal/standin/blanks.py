"""Every field that an object has on the wire, empty. Operations fill in what is the case.

Taken down from the SDK's resource classes; the contract test says when one is missing or has become something else.
Fields that Stripe sends only when asked to (`expand`) are not here.
"""

from farebox_portal.standin.wire import Document


def _empty(names: str) -> Document:
    return dict.fromkeys(names.split())


ADDRESS = _empty("city country line1 line2 postal_code state")
_TEST: Document = {"livemode": False}
_BILLING = _empty("email name phone tax_id") | {"address": None}
_NO_AUTOMATIC_TAX: Document = {
    "disabled_reason": None, "enabled": False, "liability": None, "provider": None, "status": None,
}  # fmt: skip

CUSTOMER: Document = _TEST | {"created": 0, "balance": 0, "delinquent": False, "metadata": {}, "tax_exempt": "none"}
CUSTOMER |= _empty(
    """address currency default_source description discount email invoice_prefix name phone shipping test_clock
    business_name individual_name customer_account"""
)
CUSTOMER |= {
    "invoice_settings": _empty("custom_fields default_payment_method footer rendering_options"),
    "next_invoice_sequence": 1,
    "preferred_locales": [],
}

PAYMENT_METHOD: Document = _TEST | {"created": 0, "type": "card", "billing_details": _BILLING, "metadata": {}}
PAYMENT_METHOD |= {"customer": None, "allow_redisplay": "unspecified"}

CHECKOUT_SESSION: Document = _TEST | {
    "created": 0, "expires_at": 0, "mode": "setup", "status": "open", "payment_status": "no_payment_required",
    "custom_fields": [], "payment_method_types": ["card"], "shipping_options": [], "ui_mode": "hosted_page",
    "custom_text": _empty("after_submit shipping_address submit terms_of_service_acceptance"), "metadata": {},
    "automatic_tax": _empty("liability provider status") | {"enabled": False}, "payment_method_collection": "always",
}  # fmt: skip
CHECKOUT_SESSION |= _empty(
    """adaptive_pricing after_expiration allow_promotion_codes amount_subtotal amount_total billing_address_collection
    cancel_url client_reference_id client_secret collected_information consent consent_collection currency
    currency_conversion customer customer_creation customer_details customer_email invoice invoice_creation locale
    origin_context payment_intent payment_link permissions phone_number_collection recovered_from
    saved_payment_method_options setup_intent shipping_address_collection shipping_cost submit_type subscription
    success_url total_details url wallet_options"""
)

SETUP_INTENT: Document = _TEST | {
    "created": 0, "metadata": {}, "payment_method_types": ["card"], "payment_method_options": None,
    "status": "requires_payment_method", "usage": "off_session",
}  # fmt: skip
SETUP_INTENT |= _empty(
    """application automatic_payment_methods cancellation_reason client_secret customer description flow_directions
    last_setup_error latest_attempt mandate next_action on_behalf_of payment_method payment_method_configuration_details
    single_use_mandate"""
)

PORTAL_SESSION: Document = _TEST | {"created": 0, "customer": "", "configuration": "", "url": ""}
PORTAL_SESSION |= _empty("flow locale on_behalf_of return_url")

PORTAL_CONFIGURATION: Document = _TEST | {
    "created": 0, "updated": 0, "active": True, "is_default": False, "metadata": {}, "application": None,
    "business_profile": _empty("headline privacy_policy_url terms_of_service_url"), "default_return_url": None,
    "login_page": {"enabled": False, "url": None}, "name": None,
    "features": {
        "customer_update": {"allowed_updates": [], "enabled": False},
        "invoice_history": {"enabled": True},
        "payment_method_update": {"enabled": True, "payment_method_configuration": None},
        "subscription_cancel": {
            "cancellation_reason": {"enabled": False, "options": []},
            "enabled": False, "mode": "at_period_end", "proration_behavior": "none",
        },
        "subscription_pause": {
            "duration": {"interval_options": [], "type": "indefinite"}, "enabled": False,
        },
        "subscription_update": {
            "default_allowed_updates": [], "enabled": False, "proration_behavior": "none",
            "schedule_at_period_end": {"conditions": []}, "billing_cycle_anchor": None,
            "trial_update_behavior": "end_trial", "products": None,
        },
    },
}  # fmt: skip

INVOICE: Document = _TEST | {
    "created": 0, "status": "draft", "currency": "usd", "billing_reason": "manual", "metadata": {},
    "collection_method": "charge_automatically", "auto_advance": False, "attempted": False, "attempt_count": 0,
    "automatic_tax": _NO_AUTOMATIC_TAX, "default_tax_rates": [], "discounts": [], "issuer": {"type": "self"},
    "payment_settings": _empty("default_mandate payment_method_options payment_method_types"),
    "rendering": None, "period_start": 0, "period_end": 0,
    "status_transitions": _empty("finalized_at marked_uncollectible_at paid_at voided_at"),
    "total_discount_amounts": [], "total_pretax_credit_amounts": [], "total_taxes": [],
}  # fmt: skip
_SUMS = """amount_due amount_overpaid amount_paid amount_remaining amount_shipping post_payment_credit_notes_amount
    pre_payment_credit_notes_amount starting_balance subtotal subtotal_excluding_tax total total_excluding_tax"""
INVOICE |= dict.fromkeys(_SUMS.split(), 0)
INVOICE |= _empty(
    """account_country account_name account_tax_ids application automatically_finalizes_at custom_fields customer
    customer_account customer_address customer_email customer_name customer_phone customer_shipping customer_tax_exempt
    default_payment_method default_source description due_date effective_at ending_balance footer from_invoice
    hosted_invoice_url invoice_pdf last_finalization_error latest_revision next_payment_attempt number on_behalf_of
    parent receipt_number shipping_cost shipping_details statement_descriptor test_clock threshold_reason
    webhooks_delivered_at"""
)
INVOICE |= {"customer_tax_ids": []}

LINE_ITEM: Document = _TEST | {
    "amount": 0, "subtotal": 0, "currency": "", "description": None, "discountable": False, "discounts": [],
    "discount_amounts": [], "invoice": None, "metadata": {}, "parent": None, "period": None, "pricing": None,
    "pretax_credit_amounts": [], "quantity": 1, "quantity_decimal": "1", "subscription": None, "taxes": [],
}  # fmt: skip

INVOICEITEM: Document = _TEST | {
    "amount": 0, "currency": "", "customer": "", "date": 0, "description": None, "discountable": False,
    "discounts": [], "invoice": None, "metadata": {}, "parent": None, "period": None, "pricing": None,
    "proration": False, "proration_details": None, "quantity": 1, "quantity_decimal": "1", "tax_rates": [],
    "test_clock": None,
}  # fmt: skip

INVOICE_PAYMENT: Document = _TEST | {
    "created": 0, "amount_paid": None, "amount_requested": 0, "currency": "", "invoice": "", "is_default": True,
    "payment": None, "status": "open", "status_transitions": _empty("canceled_at paid_at"),
}  # fmt: skip

PAYMENT_INTENT: Document = _TEST | {
    "created": 0, "amount": 0, "amount_capturable": 0, "amount_received": 0, "capture_method": "automatic",
    "confirmation_method": "automatic", "currency": "", "metadata": {}, "payment_method_types": ["card"],
    "status": "requires_payment_method", "payment_method_options": None, "amount_details": None,
}  # fmt: skip
PAYMENT_INTENT |= _empty(
    """application application_fee_amount automatic_payment_methods canceled_at cancellation_reason client_secret
    customer description last_payment_error latest_charge next_action on_behalf_of payment_method
    payment_method_configuration_details processing receipt_email review setup_future_usage shipping source
    statement_descriptor statement_descriptor_suffix transfer_data transfer_group"""
)

CHARGE: Document = _TEST | {
    "created": 0, "amount": 0, "amount_captured": 0, "amount_refunded": 0, "billing_details": _BILLING,
    "captured": False, "currency": "", "disputed": False, "metadata": {}, "paid": False, "refunded": False,
    "status": "succeeded", "fraud_details": {},
}  # fmt: skip
CHARGE |= _empty(
    """application application_fee application_fee_amount balance_transaction calculated_statement_descriptor customer
    description failure_balance_transaction failure_code failure_message on_behalf_of outcome payment_intent
    payment_method payment_method_details receipt_email receipt_number receipt_url review shipping source
    source_transfer statement_descriptor statement_descriptor_suffix transfer_data transfer_group"""
)

REFUND: Document = {"created": 0, "amount": 0, "currency": "", "metadata": {}, "status": "succeeded"}
REFUND |= _empty("balance_transaction charge payment_intent reason receipt_number source_transfer_reversal")
REFUND |= {"transfer_reversal": None}

DISPUTE: Document = _TEST | {
    "created": 0, "amount": 0, "currency": "", "charge": "", "balance_transactions": [], "metadata": {},
    "enhanced_eligibility_types": [], "evidence": {"enhanced_evidence": {}}, "is_charge_refundable": False,
    "evidence_details": {
        "due_by": None, "enhanced_eligibility": {}, "has_evidence": False, "past_due": False,
        "submission_count": 0, "submission_method": "not_submitted",
    },
    "payment_intent": None, "reason": "fraudulent", "status": "needs_response",
}  # fmt: skip

CREDIT_NOTE: Document = _TEST | {
    "created": 0, "amount": 0, "amount_shipping": 0, "currency": "", "customer": "", "discount_amount": 0,
    "discount_amounts": [], "invoice": "", "metadata": {}, "number": "", "pdf": "", "post_payment_amount": 0,
    "pre_payment_amount": 0, "pretax_credit_amounts": [], "refunds": [], "status": "issued", "subtotal": 0, "total": 0,
    "total_taxes": [], "type": "pre_payment", "subtotal_excluding_tax": 0, "total_excluding_tax": 0,
}  # fmt: skip
CREDIT_NOTE |= _empty(
    "customer_balance_transaction effective_at memo out_of_band_amount reason shipping_cost voided_at"
)

CREDIT_NOTE_LINE: Document = _TEST | {
    "amount": 0, "description": None, "discount_amount": 0, "discount_amounts": [], "pretax_credit_amounts": [],
    "quantity": None, "tax_rates": [], "taxes": [], "type": "custom_line_item", "unit_amount": None,
    "unit_amount_decimal": None,
}  # fmt: skip

BALANCE_TRANSACTION: Document = _TEST | {
    "created": 0, "amount": 0, "currency": "", "customer": "", "ending_balance": 0, "type": "adjustment",
    "metadata": {}, "credit_note": None, "description": None, "invoice": None, "checkout_session": None,
}  # fmt: skip

WEBHOOK_ENDPOINT: Document = _TEST | {
    "created": 0, "api_version": None, "application": None, "description": None, "enabled_events": [], "metadata": {},
    "status": "enabled", "url": "",
}  # fmt: skip

EVENT: Document = _TEST | {
    "created": 0, "api_version": None, "data": {}, "pending_webhooks": 0, "request": None, "type": "",
}  # fmt: skip

BLANKS: dict[str, Document] = {
    "billing_portal.configuration": PORTAL_CONFIGURATION,
    "billing_portal.session": PORTAL_SESSION,
    "charge": CHARGE,
    "checkout.session": CHECKOUT_SESSION,
    "credit_note": CREDIT_NOTE,
    "credit_note_line_item": CREDIT_NOTE_LINE,
    "customer": CUSTOMER,
    "customer_balance_transaction": BALANCE_TRANSACTION,
    "dispute": DISPUTE,
    "event": EVENT,
    "invoice": INVOICE,
    "invoice_payment": INVOICE_PAYMENT,
    "invoiceitem": INVOICEITEM,
    "line_item": LINE_ITEM,
    "payment_intent": PAYMENT_INTENT,
    "payment_method": PAYMENT_METHOD,
    "refund": REFUND,
    "setup_intent": SETUP_INTENT,
    "webhook_endpoint": WEBHOOK_ENDPOINT,
}
