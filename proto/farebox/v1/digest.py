"""From an API key to its lookup digest: the portal writes it, the plugin computes it on every request.

A key looks like ``fb_live_`` + 30 base62 characters of randomness + 6 base62 characters of CRC-32 over everything
before. The checksum lets a typo, a scanner's guess or a truncated paste be refused without asking anything, and lets a
secret scanner confirm a find. 178 random bits need no slow hash: SHA-256 is enough, HMAC with the pepper if one is set
(so that a stolen database alone cannot confirm a guess).
"""

import hashlib
import hmac
import re
import secrets
import zlib

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PATTERN = re.compile(r"fb_(?:live|test)_[0-9A-Za-z]{36}")
SECRET_LENGTH = 30


def _base62(number: int, length: int) -> str:
    digits = ""
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits = ALPHABET[digit] + digits
    return digits


def checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), 6)


def new_api_key(environment: str) -> str:
    """Make a key for ``live`` or ``test``."""
    body = f"fb_{environment}_" + "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))
    return body + checksum(body)


def is_well_formed(api_key: str) -> bool:
    return PATTERN.fullmatch(api_key) is not None and checksum(api_key[:-6]) == api_key[-6:]


def digest(api_key: str, pepper: bytes = b"") -> str:
    """Hex digest under which the key's record lies (64 characters)."""
    if pepper:
        return hmac.new(pepper, api_key.encode("ascii"), "sha256").hexdigest()
    return hashlib.sha256(api_key.encode("ascii")).hexdigest()
