from pathlib import Path

import pytest

from farebox_portal.errors import SettingsError
from farebox_portal.settings import load_settings

GOOD = {"FAREBOX_ADMIN_TOKEN": "an-admin-token-of-ours", "FAREBOX_PLUGIN_TOKEN": "a-plugin-token-of-ours"}


def test_two_tokens_are_enough(tmp_path: Path) -> None:
    settings = load_settings(GOOD | {"FAREBOX_STATE_DIR": str(tmp_path)})
    assert settings.sql_url == f"sqlite:///{tmp_path}/farebox.db"
    assert settings.key_environment == "test"
    assert settings.pepper == b""


def test_every_missing_variable_is_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"FAREBOX_ADMIN_TOKEN: is required.*FAREBOX_PLUGIN_TOKEN: is required"):
        load_settings({})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ADMIN_TOKEN", "short-secret"),
        ("ADMIN_TOKEN", "with white space and long"),
        ("PLUGIN_TOKEN", "nicht-ascii-schlüssel"),
        ("DATABASE_URL", "mysql://user:hunter2@host/name"),
        ("REDIS_URL", "http://:hunter2@host"),
        ("ENVIRONMENT", "staging"),
        ("PUBLIC_URL", "portal.example.com"),
    ],
)
def test_a_wrong_value_is_named_and_not_shown(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings(GOOD | {f"FAREBOX_{variable}": value})
    assert f"FAREBOX_{variable}: " in refusal.value.detail
    assert value not in refusal.value.detail


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://u@h/n", "postgresql+psycopg://u@h/n"),
        ("postgresql://u@h/n", "postgresql+psycopg://u@h/n"),
        ("sqlite:////var/x.db", "sqlite:////var/x.db"),
    ],
)
def test_database_urls_are_taken_as_people_write_them(given: str, used: str) -> None:
    assert load_settings(GOOD | {"FAREBOX_DATABASE_URL": given}).sql_url == used


def test_valkey_urls_are_redis_urls() -> None:
    assert load_settings(GOOD | {"FAREBOX_REDIS_URL": "valkey://h:1"}).redis_url == "redis://h:1"


def test_a_secret_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-from-a-file\n")
    environ = GOOD | {"FAREBOX_ADMIN_TOKEN": "", "FAREBOX_ADMIN_TOKEN_FILE": str(tmp_path / "token")}
    assert load_settings(environ).admin_token.get_secret_value() == "a-token-from-a-file"


def test_a_secret_from_two_places_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not both"):
        load_settings(GOOD | {"FAREBOX_ADMIN_TOKEN_FILE": str(tmp_path)})


def test_an_unreadable_secret_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"FAREBOX_KEY_PEPPER_FILE: cannot read .*No such file"):
        load_settings(GOOD | {"FAREBOX_KEY_PEPPER_FILE": str(tmp_path / "none")})


def test_settings_in_print_show_no_secret(tmp_path: Path) -> None:
    settings = load_settings(GOOD | {"FAREBOX_DATABASE_URL": "postgresql://u:hunter2@h/n", "FAREBOX_KEY_PEPPER": "pep"})
    for secret in (*GOOD.values(), "hunter2", "pep"):
        assert f"{secret}" not in repr(settings).replace("key_pepper", "")


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = load_settings(GOOD | {"FAREBOX_STATE_DIR": str(tmp_path / "file" / "below")})
    with pytest.raises(SettingsError, match="FAREBOX_STATE_DIR"):
        settings.prepare_state_dir()


def test_the_state_directory_is_for_its_owner_only(tmp_path: Path) -> None:
    load_settings(GOOD | {"FAREBOX_STATE_DIR": str(tmp_path / "state")}).prepare_state_dir()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


TEST_KEY, LIVE_KEY = "sk_test_0123456789abcdef", "rk_live_0123456789abcdef"


@pytest.mark.parametrize(
    ("given", "variable"),
    [
        ({"STRIPE_API_KEY": "pk_test_0123456789"}, "STRIPE_API_KEY"),
        ({"STRIPE_API_KEY": "whsec_0123456789"}, "STRIPE_API_KEY"),
        ({"STRIPE_API_KEY": LIVE_KEY}, "STRIPE_API_KEY"),
        ({"STRIPE_API_KEY": TEST_KEY, "ENVIRONMENT": "production"}, "STRIPE_API_KEY"),
        ({"STRIPE_API_KEY": TEST_KEY, "STRIPE_API_BASE": "http://10.0.0.1:12111"}, "STRIPE_API_BASE"),
        ({"STRIPE_API_KEY": TEST_KEY, "STRIPE_API_BASE": "https://stripe.example.com"}, "STRIPE_API_BASE"),
        (
            {"STRIPE_API_KEY": LIVE_KEY, "ENVIRONMENT": "production", "STRIPE_API_BASE": "http://127.0.0.1:12111"},
            "STRIPE_API_BASE",
        ),
        ({"STRIPE_WEBHOOK_SECRET": "sk_test_0123456789"}, "STRIPE_WEBHOOK_SECRET"),
    ],
)
def test_a_stripe_setting_that_cannot_be_meant_is_named_and_not_shown(given: dict[str, str], variable: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings(GOOD | {f"FAREBOX_{name}": value for name, value in given.items()})
    assert refusal.value.detail.startswith(f"FAREBOX_{variable}: ")
    assert not [value for name, value in given.items() if name.endswith(("KEY", "SECRET")) and value in str(refusal)]


@pytest.mark.parametrize(
    "given",
    [
        {"STRIPE_API_KEY": TEST_KEY},
        {"STRIPE_API_KEY": TEST_KEY, "STRIPE_API_BASE": "http://127.0.0.1:12111/"},
        {"STRIPE_API_KEY": LIVE_KEY, "ENVIRONMENT": "production"},
    ],
)
def test_a_stripe_key_of_the_right_mode_is_taken(given: dict[str, str]) -> None:
    settings = load_settings(GOOD | {f"FAREBOX_{name}": value for name, value in given.items()})
    assert settings.stripe_api_key is not None
    assert given["STRIPE_API_KEY"] not in repr(settings)
    assert settings.is_stripe_local is ("STRIPE_API_BASE" in given)


@pytest.mark.parametrize("kind", ["sk", "rk"])
@pytest.mark.parametrize("mode", ["test", "live"])
@pytest.mark.parametrize("environment", ["test", "production"])
def test_live_keys_are_for_production_and_test_keys_for_test(kind: str, mode: str, environment: str) -> None:
    given = {"FAREBOX_STRIPE_API_KEY": f"{kind}_{mode}_0123456789abcdef", "FAREBOX_ENVIRONMENT": environment}
    if (mode == "live") == (environment == "production"):
        assert load_settings(GOOD | given).environment == environment
    else:
        with pytest.raises(SettingsError, match=r"FAREBOX_STRIPE_API_KEY: must be a (test|live) key"):
            load_settings(GOOD | given)
