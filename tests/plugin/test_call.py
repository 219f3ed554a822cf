import pytest

from builders.plugin import a_check
from farebox.v1.digest import checksum
from farebox.v1.envoy_authz_pb2 import CheckRequest
from farebox.v1.rid import rid_time_ms
from farebox_plugin.call import credential, read_call

KEY, OTHER = (body + checksum(body) for body in (f"fb_test_{'A' * 30}", f"fb_live_{'b' * 30}"))


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "found"),
    [
        (f"Bearer {KEY}", None, KEY),
        (f"bearer  {KEY} ", None, KEY),
        (None, KEY, KEY),
        (f"Bearer {KEY}", KEY, KEY),
    ],
)
def test_a_key_is_taken_from_bearer_first_then_from_x_api_key(
    authorization: str | None, x_api_key: str | None, found: str
) -> None:
    assert credential(authorization, x_api_key) == (found, None)


@pytest.mark.parametrize(("authorization", "x_api_key"), [(None, None), (None, ""), (None, "  ")])
def test_no_credential_is_no_fault(authorization: str | None, x_api_key: str | None) -> None:
    assert credential(authorization, x_api_key) == (None, None)


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        (f"Bearer {KEY}", OTHER),  # which of the two did a proxy on the way look at?
        (f"Bearer {KEY},{KEY}", None),  # repeated headers reach us joined by a comma
        (None, f"{KEY},{OTHER}"),
        (f"Basic {KEY}", None),
        (f"Basic {KEY}", KEY),
        ("Bearer", None),
        ("Bearer ", KEY),
        (f"Bearer {KEY[:-1]}", None),
        ("Bearer fb_test_é", None),
        (None, "x" * 8000),
    ],
)
def test_a_credential_that_cannot_be_a_key_is_a_fault(authorization: str | None, x_api_key: str | None) -> None:
    key, fault = credential(authorization, x_api_key)
    assert key is None
    assert fault
    assert KEY not in fault


def test_the_same_stream_gives_the_same_rid_and_another_stream_another() -> None:
    first = a_check(KEY, stream=7)
    assert read_call(first).rid == read_call(first).rid
    message = CheckRequest.FromString(first)
    message.attributes.request.http.id = "8"
    assert read_call(message.SerializeToString()).rid != read_call(first).rid


def test_a_client_cannot_choose_its_rid() -> None:
    one, two = a_check(KEY, x_request_id="mine"), a_check(KEY, x_request_id="mine")
    assert read_call(one).rid != read_call(two).rid


def test_the_rid_carries_the_time_of_admission_and_the_path_loses_its_query() -> None:
    call = read_call(a_check(KEY))
    assert rid_time_ms(call.rid) == call.admitted_at_ms
    assert call.asked().path == "/v1/echo"
    assert call.policy == "default"


@pytest.mark.parametrize(
    ("told", "expected"), [(1000, 1000), (0, None), (-5, None), (1.5, None), (1e12, None), (float("nan"), None)]
)
def test_max_tokens_is_believed_only_if_it_is_a_sane_number(told: float, expected: int | None) -> None:
    message = CheckRequest.FromString(a_check(KEY))
    message.attributes.metadata_context.filter_metadata["farebox.request"].update({"max_tokens": told})
    assert read_call(message.SerializeToString()).max_tokens() == expected
