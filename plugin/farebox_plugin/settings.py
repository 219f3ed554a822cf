"""Everything the plugin can be told. A wrong value ends the start with one line that names the variable."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class SettingsError(Exception):
    """The configuration is wrong; the message is one line for the operator."""


class Settings(BaseSettings):
    """``FAREBOX_*`` environment variables; secrets also as ``FAREBOX_…_FILE``."""

    model_config = SettingsConfigDict(env_prefix="FAREBOX_", extra="ignore")

    redis_url: str
    portal_url: str
    plugin_token: SecretStr
    key_pepper: SecretStr = SecretStr("")
    public_url: str = ""
    spool_dir: Path = Path(".farebox/spool")
    # "" = the host's. Belongs to the spool directory from the first start on.
    gateway_name: str = Field(default="", pattern=r"^[A-Za-z0-9-]{0,40}$")
    transport: Literal["h2", "grpcio"] = "h2"
    spool_budget_mb: int = Field(default=4096, ge=1)
    store_timeout_ms: int = Field(default=100, ge=5, le=5000)
    orphan_after_s: int = Field(default=900, ge=5)
    metrics_port: int = Field(default=0, ge=0, le=65535)  # of the keeper; 0 = none

    @field_validator("redis_url")
    @classmethod
    def _redis_scheme(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("expected redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH")
        return value

    @field_validator("portal_url")
    @classmethod
    def _portal_scheme(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("expected http://HOST:PORT")
        return value.rstrip("/")

    @property
    def pepper(self) -> bytes:
        return self.key_pepper.get_secret_value().encode()


_SECRETS = ("plugin_token", "key_pepper")


def load_settings(environ: dict[str, str], **overrides: Any) -> Settings:
    """Read the environment. Raises SettingsError naming the first wrong variable."""
    values: dict[str, Any] = dict(overrides)
    for name in _SECRETS:
        path = environ.get(f"FAREBOX_{name.upper()}_FILE")
        if path:
            try:
                values[name] = Path(path).read_text().strip()
            except OSError as fault:
                raise SettingsError(f"FAREBOX_{name.upper()}_FILE: {fault.strerror}: {path}") from fault
    try:
        return Settings(**values)
    except ValidationError as fault:
        first = fault.errors(include_input=False, include_url=False)[0]
        variable = "FAREBOX_" + "_".join(str(part) for part in first["loc"]).upper()
        reason = "is not set" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{variable}: {reason}") from None
