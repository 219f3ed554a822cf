"""What is cached of an account is gone as soon as it changes, whenever that comes."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from farebox.v1 import entitlements_pb2, layout
from farebox_plugin import directory as module
from farebox_plugin.directory import Directory
from farebox_plugin.records import Unavailable

pytestmark = pytest.mark.asyncio
ACCOUNT = "acme"
KEYS = [layout.account(ACCOUNT).encode()]


def raw(version: int) -> bytes:
    return bytes(entitlements_pb2.Account(id=ACCOUNT, version=version).SerializeToString())


class Answers:
    """A link whose answers are there before whoever asked has its turn; `then` happens in between."""

    def __init__(self) -> None:
        self.then: Any = lambda: None

    def ask(self, command: str, *_: str) -> "asyncio.Future[bytes]":
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        answer.set_result(b"7" if command == "HGET" else raw(1))
        if command == "GET":
            asyncio.get_running_loop().call_soon(self.then)
        return answer

    def server_of(self, _: str) -> Any:
        return SimpleNamespace(generation="7")


@pytest.fixture
def answers() -> Answers:
    return Answers()


async def test_an_invalidation_between_the_answer_and_its_reader_is_not_lost(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNWATCHED_S", -1.0)
    directory = Directory(answers)  # type: ignore[arg-type]
    answers.then = lambda: directory.invalidated(KEYS)
    assert await directory.load_account(ACCOUNT) is not None
    assert directory.find_account(ACCOUNT) is None
    answers.then = lambda: directory.invalidated(None)
    assert await directory.load_account(ACCOUNT) is not None
    assert directory.find_account(ACCOUNT) is None
    answers.then = lambda: None
    assert await directory.load_account(ACCOUNT) is not None
    assert directory.find_account(ACCOUNT) is not None
    directory.invalidated(KEYS)
    assert directory.find_account(ACCOUNT) is None


DIGEST = "d" * 64
ANSWERS = {
    layout.api_key(DIGEST): entitlements_pb2.KeyRecord(account_id=ACCOUNT, key_id="key1").SerializeToString(),
    layout.POLICIES: [entitlements_pb2.Policies(version=1).SerializeToString(), b"7"],
}


class Stored(Answers):
    """One whose answers are those of ANSWERS."""

    is_cluster = False

    def ask(self, command: str, *keys: str) -> "asyncio.Future[Any]":
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(answer.set_result, ANSWERS[keys[0]])
        asyncio.get_running_loop().call_soon(self.then)  # before whoever waits for the answer has its turn
        return answer

    def is_away(self, _: str) -> bool:
        return False


@pytest.mark.parametrize("changed", [layout.api_key(DIGEST), layout.POLICIES])
async def test_nor_is_that_of_a_key_or_of_the_policies(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNWATCHED_S", -1.0)
    answers = Stored()
    directory = Directory(answers)  # type: ignore[arg-type]

    async def found() -> object:
        if changed == layout.POLICIES:
            await directory.load_policies()
            return directory.find_policy("default")
        await directory.load_key(DIGEST)
        return directory.find_key(DIGEST)

    answers.then = lambda: directory.invalidated([changed.encode()])
    assert await found() is None
    answers.then = lambda: None
    assert await found() is not None


async def test_a_reading_that_failed_is_forgotten(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Directory(answers)  # type: ignore[arg-type]
    fault: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    fault.set_exception(Unavailable())
    monkeypatch.setattr(answers, "ask", lambda *_: fault)
    with pytest.raises(Unavailable):
        await directory.load_account(ACCOUNT)
    assert directory._reading == {}


async def test_what_the_server_does_not_watch_for_us_is_soon_read_again(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Directory(answers)  # type: ignore[arg-type]
    directory.put_account(raw(1))
    assert directory.find_account(ACCOUNT) is not None
    monkeypatch.setattr(module, "UNWATCHED_S", -1.0)
    directory.put_account(raw(1))
    assert directory.find_account(ACCOUNT) is None
