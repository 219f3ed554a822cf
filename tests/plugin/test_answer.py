"""The words to Envoy, read back by Envoy's own contract."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.plugin import DAY_MS, a_check, a_policy, an_account, now_ms
from farebox.v1.envoy_authz_pb2 import AttributeContext, CheckRequest, CheckResponse
from farebox_plugin.answer import (
    _APPEND_OVERWRITE,
    PROBLEMS,
    _before_grant,
    _before_rate_limit,
    _words,
    allowed,
    denied,
    rate_limit_headers,
    read_grant,
)
from farebox_plugin.call import read_call
from farebox_plugin.directory import read_account, read_policy
from farebox_plugin.records import Grant, Refusal
from farebox_plugin.terms import Terms, terms

CALL = read_call(a_check("x"))


def some_terms(**fields: Any) -> Terms:
    made = terms(read_account(an_account(**fields)), "key1", read_policy(a_policy()), now_ms())
    assert isinstance(made, Terms)
    return made


def headers(options: Any) -> dict[str, str]:
    return {option.header.key: option.header.value for option in options}


def test_an_allowed_answer_is_one_valid_message_with_identity_credential_removal_and_metadata() -> None:
    answer = allowed(CALL._replace(rid="rid1"), some_terms(limit=10), [1], 0, {"tokens": 5})
    response = CheckResponse.FromString(answer)
    assert response.status.code == 0
    ok = response.ok_response
    assert headers(ok.headers) == {
        "x-farebox-customer": "acct1-customer",
        "x-farebox-subscription": "sub1",
        "x-farebox-plan": "free",
        "x-farebox-key": "key1",
    }
    assert {option.append_action for option in ok.headers} == {2}, (
        "overwrite: a client's own copy must not stay beside ours"
    )
    assert set(ok.headers_to_remove) == {"authorization", "x-api-key"}
    assert headers(ok.response_headers_to_add)["RateLimit"].startswith('"quota";r=9;t=')
    assert read_grant(response.dynamic_metadata) == Grant("rid1", "acct1", "sub1", "key1", "default", {"tokens": 5})


@given(
    rid=st.text("0123456789abcdef-", min_size=1, max_size=300),
    limits=st.fixed_dictionaries({"limit": st.integers(-1, 10**18)}, optional={"rate": st.just((5, 1000))}),
    committed=st.integers(0, 10**18),
    held=st.dictionaries(st.text("abc_", min_size=1, max_size=9), st.integers(0, 1 << 53), max_size=30),
)
def test_the_bytes_put_together_by_hand_are_those_of_the_message(
    rid: str, limits: dict[str, Any], committed: int, held: dict[str, int]
) -> None:
    made = some_terms(hard=limits["limit"] >= 0, **limits)
    call = CALL._replace(rid=rid)
    answer = allowed(call, made, [committed], 2, held)
    expected = CheckResponse.FromString(_words(made).prefix)
    text = f"{rid} acct1 sub1 key1 default" + (
        " " + ",".join(f"{meter}={units}" for meter, units in held.items()) if held else ""
    )
    expected.dynamic_metadata.fields["grant"].string_value = text
    told = rate_limit_headers(made, [committed], 2, call.admitted_at_ms)
    if told is not None:
        option = expected.ok_response.response_headers_to_add.add()
        option.header.key, option.header.value = "RateLimit", told[1]
        option.append_action = 2
    assert CheckResponse.FromString(answer) == expected
    assert read_grant(expected.dynamic_metadata) == Grant(rid, "acct1", "sub1", "key1", "default", held)


@pytest.mark.parametrize("size", [1, 127, 128, 300, 20_000])
def test_the_bytes_around_a_text_are_those_of_the_message_whatever_its_length(size: int) -> None:
    text = b"x" * size
    expected = CheckResponse()
    expected.dynamic_metadata.fields["grant"].string_value = text.decode()
    option = expected.ok_response.response_headers_to_add.add()
    option.header.key, option.header.value, option.append_action = "RateLimit", text.decode(), 2
    made = _before_grant(size) + text + _before_rate_limit(size) + text + _APPEND_OVERWRITE
    assert CheckResponse.FromString(made) == expected
    assert len(made) == expected.ByteSize()


def test_metadata_without_our_rid_is_no_grant() -> None:
    response = CheckResponse()
    response.dynamic_metadata.update({"account": "acct1"})
    assert read_grant(response.dynamic_metadata) is None


@pytest.mark.parametrize("code", PROBLEMS)
@pytest.mark.parametrize("is_grpc", [False, True])
def test_no_denial_can_let_anybody_in(code: str, is_grpc: bool) -> None:
    call = read_call(a_check("x", content_type="application/grpc")) if is_grpc else CALL
    response = CheckResponse.FromString(denied(call, Refusal(code, "no"), None, "", None))
    body = response.error_response if code == "metering_unavailable" else response.denied_response
    assert response.status.code != 0
    assert 400 <= body.status.code <= 599
    problem = json.loads(body.body)
    assert problem["code"] == code
    assert problem["status"] == body.status.code == PROBLEMS[code][0]
    assert headers(body.headers)["content-type"] == "application/problem+json"
    assert ("www-authenticate" in headers(body.headers)) == (body.status.code == 401)
    assert ("grpc-status" in headers(body.headers)) == is_grpc


@pytest.mark.parametrize("status", [0, 200, 302, 399, 600])
def test_a_status_that_would_let_the_request_in_is_refused(status: int) -> None:
    if status == 0:
        assert CheckResponse.FromString(denied(CALL, Refusal("quota_exceeded", "no"), 0, "", None)).HasField(
            "denied_response"
        )
        return
    with pytest.raises(AssertionError):
        denied(CALL, Refusal("quota_exceeded", "no"), status, "", None)


def test_a_quota_problem_says_meter_limit_used_reset_and_where_to_upgrade() -> None:
    refusal = Refusal("quota_exceeded", "used up", "api_requests", 10, 10, 1_800_000_000_000, retry_after_s=60)
    response = CheckResponse.FromString(denied(CALL, refusal, 429, "https://api.example", None))
    problem = json.loads(response.denied_response.body)
    assert response.denied_response.status.code == 429
    assert {name: problem[name] for name in ("meter", "limit", "used", "resetsAt", "upgradeUrl", "instance")} == {
        "meter": "api_requests",
        "limit": 10,
        "used": 10,
        "resetsAt": "2027-01-15T08:00:00Z",
        "upgradeUrl": "https://api.example/pricing",
        "instance": "/v1/echo",
    }
    assert problem["requestId"] == "req-1"
    assert headers(response.denied_response.headers)["retry-after"] == "60"


@given(st.text(max_size=200), st.text(max_size=200))
def test_no_path_or_request_id_can_break_out_of_the_problem(path: str, request_id: str) -> None:
    http = AttributeContext.HttpRequest(path=path, headers={"x-request-id": request_id})
    asked = CheckRequest(attributes=AttributeContext(request=AttributeContext.Request(http=http)))
    call = CALL._replace(message=asked.SerializeToString())
    response = CheckResponse.FromString(denied(call, Refusal("not_entitled", "no"), None, "", None))
    problem = json.loads(response.denied_response.body)
    assert (problem["instance"], problem.get("requestId", "")) == (path.partition("?")[0], request_id)


@pytest.mark.parametrize(
    ("fields", "committed", "policy", "limit"),
    [
        ({"limit": 10}, [3], '"quota";q=10;w=2592000', '"quota";r=7;t='),
        ({"limit": 10}, [12], '"quota";q=10;w=2592000', '"quota";r=0;t='),
        ({"limit": 10, "hard": False}, [3], '"quota";q=10;w=2592000', '"quota";r=7;t='),
        ({"limit": 10, "rate": (5, 1000)}, [3], '"quota";q=10;w=2592000, "rate";q=5;w=1', '"rate";r=2;t=1'),
    ],
)
def test_rate_limit_fields_tell_the_tightest_quota_and_the_rate(
    fields: dict[str, Any], committed: list[int], policy: str, limit: str
) -> None:
    found = rate_limit_headers(some_terms(**fields), committed, 2, now_ms())
    assert found is not None
    assert found[0] == policy
    assert limit in found[1]


def test_an_unlimited_plan_has_no_rate_limit_fields() -> None:
    assert rate_limit_headers(some_terms(limit=-1, hard=False), [3], None, now_ms()) is None


def test_the_reset_is_counted_from_now() -> None:
    made = some_terms(limit=10)
    found = rate_limit_headers(made, [3], None, made.counters[0].resets_at_ms - DAY_MS)
    assert found == ('"quota";q=10;w=2592000', '"quota";r=7;t=86400')
