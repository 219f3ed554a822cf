"""Whose tokens these are, and whether they travel in the open."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from farebox_portal.doctor.report import Check, Finding, check, fail, warn
from farebox_portal.settings import Settings

KNOWN_TO_EVERYBODY = "known-to-everybody"
"""What the tokens of `docker-compose.yml` begin with until others are set."""


@dataclass(frozen=True, slots=True)
class Facts:
    """`known`: variables whose token anybody can read in this repository."""

    is_production: bool
    known: tuple[str, ...]
    is_one_token: bool
    has_pepper: bool
    public_url: str


def read(settings: Settings) -> Facts:
    tokens = {
        "FAREBOX_ADMIN_TOKEN": settings.admin_token.get_secret_value(),
        "FAREBOX_PLUGIN_TOKEN": settings.plugin_token.get_secret_value(),
    }
    return Facts(
        is_production=settings.environment == "production",
        known=tuple(name for name, token in tokens.items() if token.startswith(KNOWN_TO_EVERYBODY)),
        is_one_token=len(set(tokens.values())) == 1,
        has_pepper=settings.key_pepper is not None,
        public_url=settings.public_url,
    )


def examine(facts: Facts) -> Check:
    return check("authentication", "Authentication", "operator and plugin tokens, public address", _findings(facts))


def _findings(facts: Facts) -> Iterator[Finding]:
    grave = fail if facts.is_production else warn
    for name in facts.known:
        yield grave(f"{name} is that of docker-compose.yml, which everybody knows", f"{name}=$(openssl rand -hex 32)")
    if facts.is_one_token:
        yield grave(
            "operator and plugin have the same token: whoever has a gateway has the catalog and the invoices",
            "give FAREBOX_PLUGIN_TOKEN one of its own",
        )
    parts = urlsplit(facts.public_url)
    if facts.is_production and parts.scheme != "https":
        yield fail(
            "FAREBOX_PUBLIC_URL is not https: sign-in, checkout links and webhooks travel in the open",
            "FAREBOX_PUBLIC_URL=https://…",
        )
    if facts.is_production and not facts.has_pepper:
        yield warn(
            "no FAREBOX_KEY_PEPPER: the digests of API keys are those that anybody would compute",
            "set it for portal and plugin before the first key is sold; it cannot change later",
        )
