"""Stripe Billing as an account has it that was run there: objects as the API tells them, and a server of lists.

Read only, and apart from the stand-in, which has none of these objects: that is the proof that operation needs none.
What it answers is held against the contract by whoever asks (`Checked`).
"""

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
MADE_S = 1_700_000_000


def at(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp())  # type: ignore[arg-type, misc]


def a_product(id_: str, name: str, **fields: Any) -> Json:
    return {
        "id": id_, "object": "product", "active": True, "created": MADE_S, "updated": MADE_S, "default_price": None,
        "description": None, "images": [], "livemode": False, "marketing_features": [], "metadata": {}, "name": name,
        "package_dimensions": None, "shippable": None, "statement_descriptor": None, "tax_code": None,
        "type": "service", "unit_label": None, "url": None,
    } | fields  # fmt: skip


def a_price(id_: str, product: str, amount: str | None = "1900", *, meter: str | None = None, **fields: Any) -> Json:
    """Licensed and monthly; metered with a `meter`."""
    recurring = {
        "interval": fields.pop("interval", "month"), "interval_count": fields.pop("interval_count", 1), "meter": meter,
        "usage_type": "metered" if meter else "licensed", "trial_period_days": None,
    }  # fmt: skip
    whole = int(amount) if amount is not None and "." not in amount else None
    return {
        "id": id_, "object": "price", "active": True, "billing_scheme": "per_unit", "created": MADE_S,
        "currency": "usd", "custom_unit_amount": None, "livemode": False, "lookup_key": None, "metadata": {},
        "nickname": None, "product": product, "recurring": recurring, "tax_behavior": "unspecified",
        "tiers_mode": None, "transform_quantity": None, "type": "recurring", "unit_amount": whole,
        "unit_amount_decimal": amount,
    } | fields  # fmt: skip


def tiers(mode: str, *steps: tuple[int | None, str, int]) -> Json:
    """Each step: up to, an amount for each unit, an amount for the step; of Stripe's minor units."""
    told = [
        {
            "up_to": up_to, "unit_amount": None, "unit_amount_decimal": unit, "flat_amount": flat,
            "flat_amount_decimal": str(flat),
        }
        for up_to, unit, flat in steps
    ]  # fmt: skip
    return {"billing_scheme": "tiered", "tiers_mode": mode, "tiers": told, "unit_amount": None,
            "unit_amount_decimal": None}  # fmt: skip


def a_billing_meter(id_: str, event_name: str, formula: str = "sum") -> Json:
    return {
        "id": id_, "object": "billing.meter", "created": MADE_S, "updated": MADE_S, "livemode": False,
        "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
        "default_aggregation": {"formula": formula}, "display_name": event_name.capitalize(),
        "event_name": event_name, "event_time_window": None, "status": "active",
        "status_transitions": {"deactivated_at": None}, "value_settings": {"event_payload_key": "value"},
    }  # fmt: skip


def a_billed_customer(id_: str, name: str = "Acme", **fields: Any) -> Json:
    settings = {"custom_fields": None, "default_payment_method": fields.pop("method", None), "footer": None,
                "rendering_options": None}  # fmt: skip
    return {
        "id": id_, "object": "customer", "created": MADE_S, "livemode": False, "metadata": {}, "name": name,
        "email": f"{name.lower()}@example.com", "description": None, "address": None, "phone": None, "shipping": None,
        "currency": "usd", "balance": 0, "default_source": None, "delinquent": False, "discount": None,
        "invoice_prefix": "ABC", "invoice_settings": settings, "next_invoice_sequence": 1, "preferred_locales": [],
        "tax_exempt": "none", "test_clock": None,
    } | fields  # fmt: skip


def an_item(price: Json, period_end_s: int, quantity: int | None = 1, **fields: Any) -> Json:
    plan = {
        "id": price["id"], "object": "plan", "active": True, "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"], "billing_scheme": price["billing_scheme"], "created": MADE_S,
        "currency": price["currency"], "interval": price["recurring"]["interval"],
        "interval_count": price["recurring"]["interval_count"], "livemode": False, "metadata": {}, "meter": None,
        "nickname": None, "product": price["product"], "tiers_mode": None, "transform_usage": None,
        "trial_period_days": None, "usage_type": price["recurring"]["usage_type"],
    }  # fmt: skip
    told = {name: value for name, value in price.items() if name != "tiers"}  # not told without being asked for
    item = {
        "id": f"si_{price['id']}", "object": "subscription_item", "billing_thresholds": None, "created": MADE_S,
        "current_period_end": period_end_s, "current_period_start": period_end_s - 86_400, "discounts": [],
        "metadata": {}, "plan": plan, "price": told, "subscription": "sub_1", "tax_rates": [],
    }  # fmt: skip
    return item | ({} if quantity is None else {"quantity": quantity}) | fields


def a_billed_subscription(id_: str, customer: str, *items: Json, anchor_s: int, **fields: Any) -> Json:
    return {
        "id": id_, "object": "subscription", "application": None, "application_fee_percent": None,
        "automatic_tax": {"enabled": False, "disabled_reason": None, "liability": None},
        "billing_cycle_anchor": anchor_s, "billing_cycle_anchor_config": None,
        "billing_mode": {"type": "classic", "flexible": None}, "billing_schedules": [], "billing_thresholds": None,
        "cancel_at": None, "cancel_at_period_end": False, "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically", "created": MADE_S, "currency": "usd", "customer": customer,
        "customer_account": None, "days_until_due": None, "default_payment_method": None, "default_source": None,
        "default_tax_rates": [], "description": None, "discounts": [], "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}}, "latest_invoice": None,
        "items": a_list(list(items), f"/v1/subscription_items?subscription={id_}"), "livemode": False,
        "metadata": {}, "next_pending_invoice_item_invoice": None, "on_behalf_of": None, "pause_collection": None,
        "payment_settings": {"payment_method_options": None, "payment_method_types": None,
                             "save_default_payment_method": "off"},
        "pending_invoice_item_interval": None, "pending_setup_intent": None, "pending_update": None,
        "schedule": None, "start_date": MADE_S, "status": "active", "test_clock": None, "transfer_data": None,
        "trial_end": None, "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": None,
    } | fields  # fmt: skip


def a_list(rows: list[Json], url: str, *, has_more: bool = False) -> Json:
    return {"object": "list", "data": rows, "has_more": has_more, "url": url}


class BillingServer:
    """`with BillingServer({"/v1/prices": […]}, account) as server`: lists in pages of two, and an account.

    `refuses`: a path that the key may not read, with the permission.
    """

    def __init__(self, lists: Mapping[str, list[Json]], account: Json) -> None:
        self.lists = dict(lists)
        self.account = account
        self.refuses: dict[str, str] = {}
        self.asked: list[str] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.asked.append(self.path)
                status, body = served.answer(self.path)
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, target: str) -> tuple[int, Json]:
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        if path in self.refuses:
            message = f"The provided key does not have it. Having the '{self.refuses[path]}' permission would."
            return 403, {"error": {"type": "invalid_request_error", "message": message}}
        if path == "/v1/account":
            return 200, self.account
        if path not in self.lists:
            return 404, {"error": {"type": "invalid_request_error", "message": f"no {path}"}}
        rows = self.lists[path]
        if path == "/v1/prices" and query.get("expand[0]") != ["data.tiers"]:
            rows = [{name: value for name, value in row.items() if name != "tiers"} for row in rows]
        after = query.get("starting_after", [""])[0]
        first = next((place for place, row in enumerate(rows, start=1) if row["id"] == after), 0)
        return 200, a_list(rows[first : first + 2], path, has_more=first + 2 < len(rows))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(30)
        self._server.server_close()
