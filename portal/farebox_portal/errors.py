"""Everything that Farebox refuses, as exceptions. How they look over HTTP is `problems.py`'s business.

    FareboxError                 anything we say no to, in words meant for the caller
     ├── CannotStart             a command cannot do its work: port taken, database away, extra not installed
     │    └── SettingsError      a FAREBOX_* variable is missing or wrong; the message names it
     ├── Unauthorized      401   no credential, or not a valid one
     ├── Forbidden         403   a valid credential that may not do this
     ├── NotFound          404   no such object, or not one that this caller may see
     ├── Conflict          409   the request is fine, the present state forbids it; `code` says which rule
     └── Invalid           422   the request itself is wrong; `errors` lists every fault with its place

A new error is named for what it is, without a suffix. It says what is wrong and what would be right, and never quotes a
credential or a value it could not read.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypedDict


class Fault(TypedDict):
    """One thing wrong with a document. `pointer` is a JSON pointer (RFC 6901) into it; "" is the whole document."""

    pointer: str
    detail: str


class FareboxError(Exception):
    """A refusal. Raised anywhere below the edge; the edge turns it into a problem document or one line on stderr."""

    status: ClassVar[int] = 400
    title: ClassVar[str] = "Bad request"
    default_code: ClassVar[str] = "bad_request"
    more: Mapping[str, str] = {}
    """Further members of the problem document, by their names on the wire."""

    def __init__(self, detail: str, *, code: str | None = None, errors: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code
        self.errors = list(errors)


class CannotStart(FareboxError):
    """Raised by a command before it begins its work. The caller can repair what the message names."""

    status = 500
    title = "Cannot start"
    default_code = "cannot_start"


class SettingsError(CannotStart):
    """Raised while settings are read. The message names each variable and never shows its value."""

    default_code = "settings"


class Unauthorized(FareboxError):
    """Raised when a credential is missing or unknown. Answered with `WWW-Authenticate`."""

    status = 401
    title = "Unauthorized"
    default_code = "unauthorized"


class Forbidden(FareboxError):
    """Raised when a known caller lacks the role for this operation."""

    status = 403
    title = "Forbidden"
    default_code = "forbidden"


class NotFound(FareboxError):
    """Raised when what a path or a reference names does not exist (any more)."""

    status = 404
    title = "Not found"
    default_code = "not_found"


class Conflict(FareboxError):
    """Raised when the present state forbids a well-formed request. `code` is stable and meant for programs."""

    status = 409
    title = "Conflict"
    default_code = "conflict"


class Invalid(FareboxError):
    """Raised when a request breaks its contract. Lists every fault at once, so that one round trip repairs them all."""

    status = 422
    title = "Invalid request"
    default_code = "invalid_request"

    def __init__(self, errors: Sequence[Fault], detail: str | None = None, *, code: str | None = None) -> None:
        super().__init__(detail or _summary(errors), code=code, errors=errors)


def _summary(errors: Sequence[Fault]) -> str:
    if len(errors) == 1:
        fault = errors[0]
        return f"{fault['pointer']}: {fault['detail']}" if fault["pointer"] else fault["detail"]
    return f"{len(errors)} faults; each is listed with its place in errors."


def pointer(*path: str | int) -> str:
    """The JSON pointer to a place: ``pointer("phases", 0, "a/b") == "/phases/0/a~1b"``. Source: RFC 6901."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
