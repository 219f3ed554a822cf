"""Questions put to a starting server: is it there, and is it ours?"""

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TIMEOUT_S = 2.0


def get(port: int, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """GET from loopback: status and body; ``(0, b"")`` when nobody answers."""
    return _request("GET", port, path, headers or {})


def post(port: int, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> tuple[int, bytes]:
    """POST to loopback: status and body; ``(0, b"")`` when nobody answers."""
    return _request("POST", port, path, headers or {}, body)


def _request(method: str, port: int, path: str, headers: Mapping[str, str], body: bytes = b"") -> tuple[int, bytes]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        link.request(method, path, body=body or None, headers=dict(headers))
        answer = link.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        link.close()


def get_json(port: int, path: str) -> Any:
    """The JSON document there; None when there is none."""
    status, body = get(port, path)
    try:
        return json.loads(body) if status == 200 else None
    except ValueError:
        return None


def accepts(path: Path) -> bool:
    """Whether somebody listens on this Unix socket."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(_TIMEOUT_S)
        try:
            link.connect(str(path))
        except OSError:
            return False
    return True


def answers_ping(path: Path) -> bool:
    """Whether a Valkey on this Unix socket has loaded its data and answers."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(_TIMEOUT_S)
        try:
            link.connect(str(path))
            link.sendall(b"PING\r\n")
            return link.recv(64).startswith(b"+PONG")
        except OSError:
            return False
