"""What may stand at the plugin's sockets in its place. Envoy has to refuse with every one of them."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions

Talk = Callable[[socket.socket], None]


def says_nothing(link: socket.socket) -> None:
    while link.recv(65536):
        pass


def hangs_up(link: socket.socket) -> None:
    """Takes the connection and ends it."""


def talks_nonsense(link: socket.socket) -> None:
    while link.recv(65536):
        link.sendall(os.urandom(512))


def ends_well_without_an_answer(link: socket.socket) -> None:
    """Every call ends at once with grpc-status 0 and no message: taken for an answer, it would be a silent yes."""
    _serve_h2(link, b"")


def answers_garbage(link: socket.socket) -> None:
    """A gRPC message that is no CheckResponse."""
    _serve_h2(link, b"\x00\x00\x00\x00\x04\xff\xff\xff\xff")


def _serve_h2(link: socket.socket, body: bytes) -> None:
    served = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    served.initiate_connection()
    link.sendall(served.data_to_send())
    while received := link.recv(65536):
        for event in served.receive_data(received):
            if isinstance(event, h2.events.StreamEnded):
                head = [(":status", "200"), ("content-type", "application/grpc")]
                if body:
                    served.send_headers(event.stream_id, head)
                    served.send_data(event.stream_id, body)
                    served.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
                else:
                    served.send_headers(event.stream_id, [*head, ("grpc-status", "0")], end_stream=True)
        link.sendall(served.data_to_send())


@contextmanager
def _at(folder: Path, talk: Talk) -> Iterator[None]:
    """Listen where the workers would, in threads, until the block ends."""
    listeners = []
    for number in range(2):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / f"w{number}.sock"))
        listener.listen(64)
        listeners.append(listener)
        threading.Thread(target=_accept, args=(listener, talk), daemon=True).start()
    try:
        yield
    finally:
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def _accept(listener: socket.socket, talk: Talk) -> None:
    with suppress(OSError):
        while True:
            link, _ = listener.accept()
            threading.Thread(target=_serve, args=(link, talk), daemon=True).start()


def _serve(link: socket.socket, talk: Talk) -> None:
    with link, suppress(OSError, h2.exceptions.H2Error):
        talk(link)


@contextmanager
def _nobody(folder: Path) -> Iterator[None]:
    yield


IMPOSTORS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "nobody": _nobody,
    "silent": lambda folder: _at(folder, says_nothing),
    "hangs_up": lambda folder: _at(folder, hangs_up),
    "nonsense": lambda folder: _at(folder, talks_nonsense),
    "ends_well": lambda folder: _at(folder, ends_well_without_an_answer),
    "garbage": lambda folder: _at(folder, answers_garbage),
}
