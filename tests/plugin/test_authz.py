"""Authorization/Check as a whole, from Envoy's bytes to Envoy's bytes, on a real Valkey."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from builders.plugin import Part, a_check, a_policy, an_account, now_ms, settled
from farebox.v1 import layout
from farebox.v1.digest import digest, new_api_key
from farebox.v1.envoy_authz_pb2 import CheckResponse
from farebox_plugin.answer import read_grant
from farebox_plugin.authz import Authz
from rig.valkey import Valkey


@dataclass
class Reply:
    answers: list[bytes | tuple[int, str]] = field(default_factory=list)
    is_abandoned: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    unread: Callable[[], None] | None = None

    def send(self, message: bytes, unread: Callable[[], None] | None = None) -> None:
        self.answers.append(message)
        self.unread = unread
        self.done.set()

    def fail(self, status: int, detail: str) -> None:
        self.answers.append((status, detail))
        self.done.set()


@pytest.fixture
def authz(part: Part) -> Authz:
    return Authz(part.directory, part.admission, part.recent, part.rebuilder.load, b"", "https://portal.example")


async def check(authz: Authz, message: bytes) -> CheckResponse:
    reply = Reply()
    authz.check(message, reply)
    async with asyncio.timeout(5):
        await reply.done.wait()
    await asyncio.sleep(0)
    (answer,) = reply.answers
    assert isinstance(answer, bytes)
    return CheckResponse.FromString(answer)


def refusal(response: CheckResponse) -> tuple[int, str]:
    body = response.error_response if response.HasField("error_response") else response.denied_response
    assert response.status.code != 0
    return body.status.code, json.loads(body.body)["code"]


async def test_a_request_whose_answer_was_not_read_was_not_let_in(part: Part, authz: Authz) -> None:
    key = await part.publish(an_account(limit=1))
    reply = Reply()
    authz.check(a_check(key), reply)
    await reply.done.wait()
    assert reply.unread is not None
    reply.unread()
    await settled(part)
    assert await part.counter() == {"api_requests": 0}
    assert [kind for kind, _ in part.records()][-2:] == [b"A", b"C"]
    assert (await check(authz, a_check(key))).HasField("ok_response")


async def test_of_two_answers_one_that_was_read_is_enough(part: Part, authz: Authz) -> None:
    key = await part.publish(an_account(limit=1))
    message = a_check(key, stream=777)
    first, second, later = Reply(), Reply(), Reply()
    authz.check(message, first)
    authz.check(message, second)
    await first.done.wait()
    await second.done.wait()
    authz.check(message, later)
    await later.done.wait()
    for reply in (first, later):
        assert reply.unread is not None
        reply.unread()
    await settled(part)
    assert await part.counter() == {"api_requests": 1}
    assert b"C" not in [kind for kind, _ in part.records()]


async def test_a_good_key_is_let_in(part: Part, authz: Authz) -> None:
    key = await part.publish(an_account())
    response = await check(authz, a_check(key))
    assert response.status.code == 0
    assert response.HasField("ok_response")
    grant = read_grant(response.dynamic_metadata)
    assert grant is not None
    assert (grant.account, grant.subscription, grant.key, grant.policy) == ("acct1", "sub1", "key1", "default")
    assert (await check(authz, a_check(x_api_key=key))).HasField("ok_response")


async def test_no_key_and_a_wrong_key_are_two_things(part: Part, authz: Authz) -> None:
    await part.publish(an_account())
    assert refusal(await check(authz, a_check())) == (401, "missing_api_key")
    assert refusal(await check(authz, a_check("fb_live_nonsense"))) == (401, "invalid_api_key")
    assert refusal(await check(authz, a_check(new_api_key("test")))) == (401, "invalid_api_key")


async def test_a_key_with_a_wrong_checksum_is_refused_without_asking_the_store(
    part: Part, authz: Authz, valkey: Valkey
) -> None:
    key = await part.publish(an_account())
    await part.directory.load_policies()
    valkey.freeze()
    typo = key[:-1] + ("a" if key[-1] != "a" else "b")
    assert refusal(await check(authz, a_check(typo))) == (401, "invalid_api_key")
    valkey.thaw()


async def test_an_unknown_key_is_not_invalid_while_the_directory_is_incomplete(part: Part, authz: Authz) -> None:
    key = await part.publish(an_account())
    await part.link.ask("FLUSHALL")
    assert refusal(await check(authz, a_check(key))) == (503, "metering_unavailable")
    await part.link.ask("SET", layout.DIRECTORY, part.link.generation)
    assert refusal(await check(authz, a_check(key))) == (401, "invalid_api_key")


async def test_a_key_that_appears_after_it_was_asked_for_works_at_once(part: Part, authz: Authz) -> None:
    key = new_api_key("test")
    await part.publish(an_account())
    assert refusal(await check(authz, a_check(key))) == (401, "invalid_api_key")
    await part.publish(an_account(), api_key=key)
    assert (await check(authz, a_check(key))).HasField("ok_response")


async def test_the_pepper_is_part_of_the_lookup(part: Part) -> None:
    key = await part.publish(an_account())
    peppered = Authz(part.directory, part.admission, part.recent, part.rebuilder.load, b"pepper", "")
    assert refusal(await check(peppered, a_check(key))) == (401, "invalid_api_key")


async def test_a_route_that_names_an_unknown_policy_is_refused_not_metered_as_another(part: Part, authz: Authz) -> None:
    key = await part.publish(an_account())
    assert refusal(await check(authz, a_check(key, policy="nowhere"))) == (500, "policy_unknown")
    assert (await part.counter()) == {}


async def test_a_policy_can_remap_the_status_of_a_refusal(part: Part, authz: Authz) -> None:
    policy = a_policy("strict", status_codes={"quota_exceeded": 429, "missing_api_key": 403})
    key = await part.publish(an_account(limit=0), a_policy(), policy)
    assert refusal(await check(authz, a_check(key, policy="strict"))) == (429, "quota_exceeded")
    assert refusal(await check(authz, a_check(key))) == (403, "quota_exceeded")
    assert refusal(await check(authz, a_check(policy="strict"))) == (403, "missing_api_key")


async def test_a_changed_policy_acts_on_the_next_request(part: Part, authz: Authz) -> None:
    key = await part.publish(an_account(limit=10))
    await check(authz, a_check(key))
    await part.publish(an_account(limit=10), a_policy(meters={"api_requests": 9}), api_key=key)
    await check(authz, a_check(key))
    assert await part.counter() == {"api_requests": 10}
    assert refusal(await check(authz, a_check(key))) == (403, "quota_exceeded")


@pytest.mark.parametrize(
    "change",
    [
        lambda part, key_digest: part.directory.invalidated([layout.api_key(key_digest).encode()]),
        lambda part, key_digest: part.directory.invalidated([layout.account("acct1").encode()]),
        lambda part, key_digest: part.directory.invalidated([layout.POLICIES.encode()]),
        lambda part, key_digest: part.directory.invalidated(None),
        lambda part, key_digest: part.directory.put_account(an_account().SerializeToString()),
        lambda part, key_digest: part.directory.forget_account("acct1"),
    ],
    ids=["the key changed", "the account changed", "the policies changed", "all may have", "read anew", "forgotten"],
)
async def test_terms_are_found_in_one_look_until_what_they_stand_on_changes(
    part: Part, authz: Authz, change: Callable[[Part, str], None]
) -> None:
    key = await part.publish(an_account())
    key_digest = digest(key)
    assert part.directory.find_terms(key_digest, "default", now_ms()) is None
    await check(authz, a_check(key))
    assert part.directory.find_terms(key_digest, "default", now_ms()) is not None
    assert part.directory.find_terms(key_digest, "another", now_ms()) is None
    assert part.directory.find_terms(digest(new_api_key("test")), "default", now_ms()) is None
    change(part, key_digest)
    assert part.directory.find_terms(key_digest, "default", now_ms()) is None


async def test_terms_are_found_in_one_look_while_they_are_true(part: Part, authz: Authz) -> None:
    key = await part.publish(an_account())
    key_digest = digest(key)
    await check(authz, a_check(key))
    found = part.directory.find_terms(key_digest, "default", now_ms())
    assert found is not None
    for instant_ms, is_found in (
        (found.valid_from_ms - 1, False), (found.valid_from_ms, True),
        (found.valid_until_ms - 1, True), (found.valid_until_ms, False),
    ):  # fmt: skip
        assert (part.directory.find_terms(key_digest, "default", instant_ms) is not None) is is_found


@pytest.mark.parametrize("outdated", ["the key", "the account", "the policies"])
async def test_what_terms_stand_on_is_believed_for_its_time(part: Part, authz: Authz, outdated: str) -> None:
    key = await part.publish(an_account())
    key_digest, directory = digest(key), part.directory
    await check(authz, a_check(key))
    account, (_, owner) = directory.find_account("acct1"), directory._keys.get(key_digest) or (0.0, None)
    assert account is not None

    def believe(what: str, until: float) -> None:
        if what == "the key":
            directory._keys[key_digest] = (until, owner)
        elif what == "the account":
            account.expires_at = until
        else:
            directory._policies_expire_at = until

    now = asyncio.get_running_loop().time()
    for what in ("the key", "the account", "the policies"):
        believe(what, now + 60)
    assert directory.find_terms(key_digest, "default", now_ms()) is not None
    believe(outdated, now - 0.001)
    assert directory.find_terms(key_digest, "default", now_ms()) is None


async def test_the_expiry_of_a_key_acts_to_the_millisecond(part: Part, authz: Authz) -> None:
    expires = now_ms() + 300
    key = await part.publish(an_account(expires_at_ms=expires))
    assert (await check(authz, a_check(key))).HasField("ok_response")
    await asyncio.sleep(0.35)
    assert refusal(await check(authz, a_check(key))) == (401, "expired_api_key")


async def test_a_store_that_is_down_is_a_503_with_retry_after(part: Part, authz: Authz, valkey: Valkey) -> None:
    key = await part.publish(an_account())
    await check(authz, a_check(key))
    valkey.kill9()
    await asyncio.sleep(0.05)
    response = await check(authz, a_check(key))
    assert refusal(response) == (503, "metering_unavailable")
    assert {option.header.key for option in response.error_response.headers} >= {"retry-after", "content-type"}


async def test_a_policy_may_let_requests_pass_while_the_store_is_away_and_they_are_counted_later(
    part: Part, authz: Authz, valkey: Valkey
) -> None:
    lenient = a_policy("lenient", allow_on_store_failure=True)
    key = await part.publish(an_account(limit=3), lenient, a_policy())
    assert (await check(authz, a_check(key, policy="lenient"))).HasField("ok_response")
    valkey.kill9()
    await asyncio.sleep(0.05)
    answers = [await check(authz, a_check(key, policy="lenient")) for _ in range(4)]
    assert all(answer.HasField("ok_response") for answer in answers)
    assert refusal(await check(authz, a_check(key))) == (503, "metering_unavailable"), "another policy on the same key"
    assert refusal(await check(authz, a_check(new_api_key("test"), policy="lenient"))) == (503, "metering_unavailable")
    valkey.start()
    while not part.link.is_up or not part.settlements.is_idle:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await part.publish(an_account(limit=3), lenient, a_policy(), api_key=key)
    assert refusal(await check(authz, a_check(key, policy="lenient"))) == (403, "quota_exceeded")
    assert await part.counter() == {"api_requests": 5}


async def test_without_the_store_a_stranger_to_this_worker_is_not_let_pass(part: Part, valkey: Valkey) -> None:
    lenient = a_policy("lenient", allow_on_store_failure=True)
    key = await part.publish(an_account(limit=3), lenient)
    await part.directory.load_policies()
    young = Authz(part.directory, part.admission, part.recent, part.rebuilder.load, b"", "")
    valkey.kill9()
    await asyncio.sleep(0.05)
    assert refusal(await check(young, a_check(key, policy="lenient"))) == (503, "metering_unavailable")


async def test_bytes_that_are_no_check_request_are_an_error_and_never_an_allow(authz: Authz) -> None:
    reply = Reply()
    authz.check(b"\xff\xff\xff", reply)
    assert reply.answers == [(3, "not a CheckRequest")]


async def test_a_body_policy_tells_ext_proc_what_was_held(part: Part, authz: Authz) -> None:
    policy = a_policy("chat", {"api_requests": 1, "tokens": "usage.outputTokens"}, reserve={"tokens": "50"})
    key = await part.publish(an_account(tokens=1000), policy)
    response = await check(authz, a_check(key, policy="chat"))
    grant = read_grant(response.dynamic_metadata)
    assert grant is not None
    assert grant.held == {"api_requests": 1, "tokens": 50}
    assert await part.counter() == {"api_requests": 1, "tokens": 50}


async def test_fifty_first_requests_at_once_all_get_their_answer(part: Part, authz: Authz) -> None:
    key = await part.publish(an_account(limit=30))
    responses = await asyncio.gather(*(check(authz, a_check(key)) for _ in range(50)))
    assert sum(response.HasField("ok_response") for response in responses) == 30
