"""Everything the portal can be told: environment variables `FAREBOX_*`, and `FAREBOX_*_FILE` for what is secret.

A missing or wrong variable stops the process at once, with one line that names it and never shows its value.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from farebox_portal.errors import SettingsError

SECRETS = (
    "admin_token", "plugin_token", "key_pepper", "database_url", "redis_url", "stripe_api_key", "stripe_webhook_secret",
)  # fmt: skip
STRIPE_API_BASE = "https://api.stripe.com"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TOKEN_LENGTH_MIN = 16
_STRIPE_KEY = re.compile(r"(sk|rk)_(test|live)_\w+", re.ASCII)
_NO_STRIPE_KEY = "must be a key of Stripe: sk_test_…, rk_test_…, sk_live_… or rk_live_…"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="FAREBOX_", env_ignore_empty=True, extra="ignore", frozen=True)

    environment: Literal["test", "production"] = "test"
    state_dir: Path = Path(".farebox")
    database_url: str | None = Field(default=None, repr=False)
    """`sqlite:///FILE` or `postgresql://…`; by default a file in the state directory. Read `sql_url`."""
    redis_url: str | None = Field(default=None, repr=False)
    """Valkey or Redis, `redis://`, `rediss://` or `unix://`. Without it nothing is published to the gateway."""
    admin_token: SecretStr
    plugin_token: SecretStr
    """What the plugin shows when it delivers usage and loads accounts."""
    public_url: str = "http://127.0.0.1:8001"
    key_pepper: SecretStr | None = None
    stripe_api_key: SecretStr | None = None
    """`sk_…` or `rk_…`, test keys in the environment `test` and live ones in `production`. Without it, by hand."""
    stripe_api_base: str = STRIPE_API_BASE
    """Another one only for the payment stand-in: on this machine, and with a test key."""
    stripe_webhook_secret: SecretStr | None = None
    """Of an endpoint that was made by hand, or by `stripe listen`. Else one is registered when Stripe is connected."""
    invoice_prefix: str = Field(default="INV-", max_length=20, pattern=r"^[!-~]*$")
    """What invoice numbers begin with: one for each installation that shares an accounting."""
    invoice_due_days: int = Field(default=30, ge=0, le=365)
    invoice_collection_window_s: int = Field(default=3600, ge=0, le=7 * 86_400)
    """How long after its end a period's usage is waited for before its invoice is issued."""
    invoice_minimum: Literal["carry", "issue"] = "carry"
    """What becomes of an invoice that is less than can be charged: it waits for the next one, or is issued."""
    dunning: Literal["own", "stripe"] = "own"
    """Who tries again what failed: we do, on days 1, 3, 5 and 7; or Stripe, as its dashboard says. Never both."""
    disputed_access: Literal["keep", "refuse"] = "keep"
    """Of a subscription of which a payment is disputed: refused until that is won, or an operator waives it."""
    seller_name: str = Field(default="Farebox", max_length=256)
    seller_address: str = Field(default="", max_length=1024)
    """Who issues the invoices, as it stands on them. Lines of the address are separated by `\\n`."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`load_settings` alone reads the environment: the one it is given, and no other."""
        return (init_settings,)

    @field_validator("admin_token", "plugin_token")
    @classmethod
    def _long_enough(cls, token: SecretStr) -> SecretStr:
        if len(token.get_secret_value()) < _TOKEN_LENGTH_MIN:
            raise ValueError(f"must have at least {_TOKEN_LENGTH_MIN} characters")
        if not token.get_secret_value().isascii() or any(c.isspace() for c in token.get_secret_value()):
            raise ValueError("must be ASCII without white space, as it travels in a header")
        return token

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str | None) -> str | None:
        if url is None or url.startswith(("sqlite:///", "postgresql+psycopg://")):
            return url
        scheme, found, rest = url.partition("://")
        if found and scheme in ("postgres", "postgresql"):
            return f"postgresql+psycopg://{rest}"
        raise ValueError("must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME")

    @field_validator("redis_url")
    @classmethod
    def _known_redis(cls, url: str | None) -> str | None:
        if url is None or url.startswith(("redis://", "rediss://", "unix://")):
            return url
        scheme, found, rest = url.partition("://")
        if found and scheme in ("valkey", "valkeys"):
            return f"redis{'s' if scheme == 'valkeys' else ''}://{rest}"
        raise ValueError("must be redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH")

    @field_validator("public_url")
    @classmethod
    def _web_address(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")) or len(url.split("/")) < 3 or not url.split("/")[2]:
            raise ValueError("must be http://HOST or https://HOST")
        return url.rstrip("/")

    @field_validator("stripe_api_key")
    @classmethod
    def _known_stripe_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not _STRIPE_KEY.fullmatch(key.get_secret_value()):
            raise ValueError(_NO_STRIPE_KEY)
        return key

    @field_validator("stripe_webhook_secret")
    @classmethod
    def _known_webhook_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and not re.fullmatch(r"whsec_\w+", secret.get_secret_value(), re.ASCII):
            raise ValueError("must be a signing secret of Stripe: whsec_…")
        return secret

    @field_validator("stripe_api_base")
    @classmethod
    def _known_stripe_base(cls, url: str) -> str:
        url = url.rstrip("/")
        if url != STRIPE_API_BASE and not _is_loopback(url):
            raise ValueError(f"must be {STRIPE_API_BASE}, or http://127.0.0.1:PORT of the payment stand-in")
        return url

    @model_validator(mode="after")
    def _one_stripe_mode(self) -> Self:
        if self.stripe_api_key is None:
            return self
        key = self.stripe_api_key.get_secret_value()
        if is_live(key) and self.stripe_api_base != STRIPE_API_BASE:
            raise SettingsError(f"FAREBOX_STRIPE_API_BASE: a live key is sent to {STRIPE_API_BASE} alone")
        if (fault := self.fault_of_stripe_key(key)) is not None:
            raise SettingsError(f"FAREBOX_STRIPE_API_KEY: {fault}")
        return self

    def fault_of_stripe_key(self, key: str) -> str | None:
        """Why a key cannot be used in this environment, whoever has it: live and test never mix."""
        if not _STRIPE_KEY.fullmatch(key):
            return _NO_STRIPE_KEY
        if is_live(key) == (self.environment == "production"):
            return None
        wanted = "a live" if self.environment == "production" else "a test"
        return f"must be {wanted} key in the environment {self.environment}"

    @property
    def is_stripe_local(self) -> bool:
        """Whether that is the stand-in, or something else on this machine."""
        return self.stripe_api_base != STRIPE_API_BASE

    @property
    def sql_url(self) -> str:
        """The SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.state_dir.resolve() / 'farebox.db'}"

    @property
    def key_environment(self) -> str:
        """`live` or `test`: the word inside new API keys."""
        return "live" if self.environment == "production" else "test"

    @property
    def pepper(self) -> bytes:
        return b"" if self.key_pepper is None else self.key_pepper.get_secret_value().encode()

    def prepare_state_dir(self) -> None:
        """Make the state directory, for this user only. Raises SettingsError if it cannot be written."""
        try:
            self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise SettingsError(f"FAREBOX_STATE_DIR: cannot make {self.state_dir}: {error.strerror}") from None
        if not os.access(self.state_dir, os.W_OK | os.X_OK):
            raise SettingsError(f"FAREBOX_STATE_DIR: cannot write to {self.state_dir}")


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of this process. Raises SettingsError naming every variable that is missing or wrong."""
    environ = os.environ if environ is None else environ
    secrets = _secret_files(environ)
    try:
        given = {name: environ[variable] for name in Settings.model_fields if environ.get(variable := _variable(name))}
        return Settings.model_validate(given | secrets)
    except ValidationError as error:
        raise SettingsError("; ".join(_complaint(fault) for fault in error.errors())) from None


def is_live(stripe_key: str) -> bool:
    """Whether it moves money, as its own prefix says."""
    return "_live_" in stripe_key


def _is_loopback(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in LOOPBACK and not parts.path


def _variable(name: str) -> str:
    return f"FAREBOX_{name.upper()}"


def _secret_files(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in SECRETS:
        variable = _variable(name)
        path = environ.get(f"{variable}_FILE")
        if not path:
            continue
        if environ.get(variable):
            raise SettingsError(f"{variable}: set it or {variable}_FILE, not both")
        try:
            found[name] = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise SettingsError(f"{variable}_FILE: cannot read {path}: {reason}") from None
    return found


def _complaint(fault: Any) -> str:
    """One fault in words. Pydantic's own text for a missing or wrong value does not contain the value."""
    variable = _variable(str(fault["loc"][0])) if fault["loc"] else "FAREBOX_*"
    if fault["type"] == "missing":
        return f"{variable}: is required but not set"
    return f"{variable}: {str(fault['msg']).removeprefix('Value error, ')}"
