import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rig.proxy import NONE, Fault, Proxy


@pytest.fixture
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that sends back what it gets, and notes it; the address."""
    listener = socket.create_server(("127.0.0.1", 0))
    heard.clear()

    def serve() -> None:
        with suppress(OSError):
            while True:
                link, _ = listener.accept()
                threading.Thread(target=answer, args=(link,), daemon=True).start()

    def answer(link: socket.socket) -> None:
        with link, suppress(OSError):
            while data := link.recv(65536):
                heard.append(data)
                link.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    yield f"tcp:127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


heard: list[bytes] = []


@pytest.fixture
def proxy(echo: str) -> Iterator[Proxy]:
    with Proxy(echo) as running:
        yield running


def connect(proxy: Proxy) -> socket.socket:
    link = socket.create_connection(("127.0.0.1", int(proxy.address.rpartition(":")[2])))
    link.settimeout(5)
    return link


def ask(link: socket.socket, question: bytes) -> bytes:
    """The answer; b"" when the connection ended first."""
    found = b""
    try:
        link.sendall(question)
        while len(found) < len(question) and (data := link.recv(65536)):
            found += data
    except ConnectionError:
        pass
    return found


def test_without_a_fault_everything_passes(proxy: Proxy) -> None:
    with connect(proxy) as link:
        assert ask(link, b"x" * 1_000_000) == b"x" * 1_000_000


def test_a_delay_comes_on_top_and_keeps_the_order(proxy: Proxy) -> None:
    proxy.requests = proxy.replies = Fault(delay_s=0.05)
    with connect(proxy) as link:
        began = time.monotonic()
        assert ask(link, b"one") == b"one"
        assert time.monotonic() - began >= 0.1
        assert ask(link, b"two") == b"two"


def test_what_is_stalled_arrives_whole_and_late(proxy: Proxy) -> None:
    with connect(proxy) as link:
        proxy.replies = Fault(is_stalled=True)
        link.sendall(b"late")
        link.settimeout(0.1)
        with pytest.raises(TimeoutError):
            link.recv(4)
        link.settimeout(5)
        proxy.replies = NONE
        assert link.recv(4) == b"late"


def test_a_lost_reply_was_a_request_that_arrived(proxy: Proxy) -> None:
    with connect(proxy) as link:
        proxy.replies = Fault(is_lost=True)
        link.sendall(b"lost")
        while heard != [b"lost"]:
            time.sleep(0.005)
        time.sleep(0.05)
        proxy.replies = NONE
        assert ask(link, b"next") == b"", "a stream with a hole in it is never continued"
    with connect(proxy) as link:
        assert ask(link, b"new") == b"new"


@pytest.mark.parametrize("passing", [0, 1, 5, 9])
def test_a_cut_lets_so_many_bytes_pass_and_strikes_once(proxy: Proxy, passing: int) -> None:
    proxy.requests = Fault(cut_after=passing)
    with connect(proxy) as link:
        ask(link, b"0123456789")
    while len(b"".join(heard)) < passing:
        time.sleep(0.005)
    assert b"".join(heard) == b"0123456789"[:passing]
    with connect(proxy) as link:
        assert ask(link, b"again") == b"again"


def test_connections_are_cut_and_refused_until_it_is_open_again(proxy: Proxy) -> None:
    with connect(proxy) as link:
        assert ask(link, b"before") == b"before"
        proxy.is_open = False
        proxy.cut()
        assert ask(link, b"after") == b""
    with connect(proxy) as link:
        assert ask(link, b"still") == b""
    proxy.heal()
    with connect(proxy) as link:
        assert ask(link, b"well") == b"well"


def test_unix_sockets_are_proxied_by_unix_sockets(tmp_path: Path) -> None:
    path = f"/tmp/fbx-test-{tmp_path.name[-20:]}-{threading.get_ident()}.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    try:
        with Proxy(f"unix:{path}") as proxy, socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            link.connect(proxy.address.removeprefix("unix:"))
            link.sendall(b"hello")
            served, _ = listener.accept()
            with served:
                assert served.recv(5) == b"hello"
    finally:
        listener.close()
        Path(path).unlink()


def test_a_proxy_whose_target_is_another_one_brings_new_connections_there(proxy: Proxy) -> None:
    with connect(proxy) as link:
        assert ask(link, b"before") == b"before"
        with socket.create_server(("127.0.0.1", 0)) as other:
            proxy.target = f"tcp:127.0.0.1:{other.getsockname()[1]}"
            assert ask(link, b"still") == b"still", "a connection stays where it is"
            with connect(proxy) as moved:
                moved.sendall(b"hello")
                served, _ = other.accept()
                with served:
                    assert served.recv(5) == b"hello"
