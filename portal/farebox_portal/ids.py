"""Identifiers: ULIDs (26 characters of Crockford base32), so that ids sort by creation and fit OpenMeter's pattern."""

import re
import secrets
from datetime import datetime

from farebox_portal.clock import to_ms

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PATTERN = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.IGNORECASE)


def new_id(now: datetime) -> str:
    """48 bits of milliseconds, 80 bits of randomness. Source: https://github.com/ulid/spec"""
    number = (to_ms(now) << 80) | secrets.randbits(80)
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def is_id(text: str) -> bool:
    """Whether it could be one of ours, in either case of letters."""
    return _PATTERN.fullmatch(text) is not None
