"""How these commands end: 0 when all is well, 1 when `diff` finds a difference, 2 when something is wrong."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from farebox_portal.errors import FareboxError

DIFFERENT, WRONG = 1, 2
_P = ParamSpec("_P")


def ends_with_faults(command: Callable[_P, None]) -> Callable[_P, None]:
    """A refusal becomes lines on stderr, one for each fault, and exit code 2."""

    @functools.wraps(command)
    def run(*arguments: _P.args, **options: _P.kwargs) -> None:
        try:
            command(*arguments, **options)
        except FareboxError as error:
            lines = [f"{fault['pointer']}: {fault['detail']}".removeprefix(": ") for fault in error.errors]
            for line in lines or [error.detail]:
                sys.stderr.write(f"farebox: {line}\n")
            sys.exit(WRONG)

    return run
