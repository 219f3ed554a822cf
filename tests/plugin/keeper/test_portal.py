"""The keeper's questions to the portal, over HTTP to a server that counts them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from builders.plugin import an_account
from farebox.v1.usage_pb2 import AccountsQuestion, AccountState, AccountStates
from farebox_plugin.keeper.portal import ACCOUNTS_AT_ONCE, QUESTIONS_AT_ONCE, Portal
from farebox_plugin.records import Unavailable

Answer = Callable[[AccountsQuestion], Awaitable[bytes]]


@asynccontextmanager
async def a_portal(answer: Answer) -> AsyncIterator[Portal]:
    """A client of a server that answers each question so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await answer(AccountsQuestion.FromString(await reader.readexactly(length)))
                status = b"200 OK" if body != b"down" else b"503 Unavailable"
                writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    portal = Portal(f"http://{host}:{port}", "token")
    try:
        yield portal
    finally:
        await portal.close()
        server.close()
        await server.wait_closed()


def states(question: AccountsQuestion) -> bytes:
    found = [AccountState(account=an_account(id=each).SerializeToString()) for each in question.accounts]
    return AccountStates(states=found).SerializeToString()


async def test_what_is_wanted_while_questions_are_on_their_way_is_the_next_question() -> None:
    sizes: list[int] = []
    may_go_on = asyncio.Event()

    async def answer(question: AccountsQuestion) -> bytes:
        sizes.append(len(question.accounts))
        await may_go_on.wait()
        return states(question)

    async with a_portal(answer) as portal:
        accounts = [f"account-{number}" for number in range(QUESTIONS_AT_ONCE + ACCOUNTS_AT_ONCE + 20)]
        asked = []
        for place, account in enumerate(accounts):
            asked.append(asyncio.ensure_future(portal.account_state(account, "host")))
            if place < QUESTIONS_AT_ONCE:
                await asyncio.sleep(0.01)
        while len(sizes) < QUESTIONS_AT_ONCE:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        asked[0].cancel()  # who leaves takes the answer from nobody
        may_go_on.set()
        found = await asyncio.gather(*asked[1:])
    assert [account.id for account, _ in found] == accounts[1:]
    assert sorted(sizes) == [1] * QUESTIONS_AT_ONCE + [20, ACCOUNTS_AT_ONCE]


@pytest.mark.parametrize(
    "body", [b"down", b"\xff", b"", AccountStates(states=[AccountState()] * 2).SerializeToString()]
)
async def test_an_answer_that_is_none_makes_the_account_unavailable(body: bytes) -> None:
    async def answer(_: AccountsQuestion) -> bytes:
        return body

    async with a_portal(answer) as portal:
        with pytest.raises(Unavailable):
            await portal.account_state("a", "host")


async def test_an_account_without_a_document_is_unavailable_and_the_others_are_not() -> None:
    async def answer(question: AccountsQuestion) -> bytes:
        found = AccountStates.FromString(states(question))
        for place, account in enumerate(question.accounts):
            if account == "broken":
                found.states[place].account = b""
        return found.SerializeToString()

    async with a_portal(answer) as portal:
        results = await asyncio.gather(
            *(portal.account_state(each, "host") for each in ("a", "broken", "b")), return_exceptions=True
        )
    assert [isinstance(each, Unavailable) for each in results] == [False, True, False]
