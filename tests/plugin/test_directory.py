"""What is cached of an account is gone as soon as it changes, whenever that comes."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from farebox.v1 import entitlements_pb2, layout
from farebox_plugin import directory as module
from farebox_plugin.directory import Directory

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


async def test_what_the_server_does_not_watch_for_us_is_soon_read_again(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Directory(answers)  # type: ignore[arg-type]
    directory.put_account(raw(1))
    assert directory.find_account(ACCOUNT) is not None
    monkeypatch.setattr(module, "UNWATCHED_S", -1.0)
    directory.put_account(raw(1))
    assert directory.find_account(ACCOUNT) is None
