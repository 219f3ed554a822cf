"""The real `stripe.StripeClient`, talking to the stand-in, with every request and answer held against the contract."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import stripe

from builders.stripe_contract import Contract
from rig.standin import StandinInside, Unanswered

KEY = "sk_test_standin_0123456789abcdef"


class Checked(stripe.RequestsClient):
    """Stripe's own HTTP client, and a witness: raises AssertionError for what Stripe would not send or accept.

    `faults` keeps what was found too, for callers that catch every exception.
    """

    def __init__(self, contract: Contract, timeout_s: float = 20) -> None:
        super().__init__(timeout=timeout_s)
        self.contract = contract
        self.faults: list[str] = []
        self.seen = 0

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        path, query = urlsplit(url).path, urlsplit(url).query
        params = nested(post_data if method == "post" else query)
        self._note(method, path, "sent", self.contract.request_faults(method, path, params))
        body, status, answered = super().request(method, url, headers, post_data)
        if answered["Content-Type"].startswith("application/json"):
            found = self.contract.answer_faults(method, path, status, json.loads(body))
            self._note(method, path, f"answered {status}", found)
        return body, status, answered

    def _note(self, method: str, path: str, what: str, faults: list[str]) -> None:
        self.seen += 1
        self.faults += [f"{method} {path} {what}: {fault}" for fault in faults]
        assert not faults, f"{method} {path} {what}: " + "; ".join(faults[:5])


class Inside(stripe.HTTPClient):
    """Asks a stand-in that has no socket. What it is asked is not held against the contract."""

    name = "inside"

    def __init__(self, standin: StandinInside) -> None:
        super().__init__()
        self.standin = standin

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        body = post_data.encode() if isinstance(post_data, str) else post_data or b""
        try:
            status, answered, answer = self.standin.ask(method, url, headers or {}, body)
        except Unanswered:
            raise stripe.APIConnectionError("no answer", should_retry=True) from None
        return answer, status, answered

    def close(self) -> None:
        pass


def stripe_client(
    url: str,
    contract: Contract | None = None,
    *,
    key: str = KEY,
    max_network_retries: int = 0,
    timeout_s: float = 20,
) -> stripe.StripeClient:
    """Without a contract nothing is checked: for tests that send what Stripe does not know."""
    stripe.enable_telemetry = False
    client = Checked(contract, timeout_s) if contract else stripe.RequestsClient(timeout=timeout_s)
    return stripe.StripeClient(
        key, base_addresses={"api": url}, http_client=client, max_network_retries=max_network_retries
    )


def nested(form: str | bytes | None) -> dict[str, Any]:
    """Stripe's bracketed form as nested dicts of text. Not the stand-in's own parser: this is the witness."""
    text = form.decode() if isinstance(form, bytes) else form or ""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        path = name.replace("]", "").split("[")
        place = root
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return root
