import socket
from collections.abc import Iterator

import pytest

from farebox_portal.demo.ports import is_free, next_free, require_free
from farebox_portal.errors import CannotStart


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


def test_a_port_with_a_listener_is_not_free(taken: int) -> None:
    assert not is_free(taken)


def test_a_port_is_free_again_while_old_connections_are_still_closing() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # the server closes first: its side stays in TIME_WAIT
    assert is_free(port)


def test_the_next_free_port_skips_listeners_and_those_already_given_away(taken: int) -> None:
    found = next_free(taken, set())
    assert found > taken
    assert next_free(taken, {found}) > found


def test_a_port_that_was_asked_for_and_is_taken_is_named_with_its_option(taken: int) -> None:
    with pytest.raises(CannotStart, match=f"^--gateway-port {taken}: something else listens on 127.0.0.1:{taken}"):
        require_free(taken, "--gateway-port")


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(CannotStart, match=f"--portal-port {port}: a port is a number from 1 to 65535"):
        require_free(port, "--portal-port")
