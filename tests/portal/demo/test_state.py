"""The state directory: what it keeps, for whom, and that only one demo writes into it."""

import json
import stat
from pathlib import Path

import pytest

from farebox_portal.demo.state import DemoCustomer, Secrets, open_state, socket_folder
from farebox_portal.errors import CannotStart

SECRETS = Secrets("admin-token", "plugin-token", {"free": DemoCustomer("free@example.com", "fb_test_x")})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_directory_without_a_name_is_removed_at_the_end() -> None:
    with open_state(None) as state:
        assert mode(state.folder) == 0o700
        (state.folder / "valkey" / "appendonly").write_text("x")
    assert not state.folder.exists()


def test_a_named_directory_stays_with_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "state"
    with open_state(folder) as state:
        assert mode(folder) == 0o700
        state.write_secrets(SECRETS)
    with open_state(folder) as state:
        assert state.read_secrets() == SECRETS


def test_a_second_demo_on_the_same_directory_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    with open_state(tmp_path), pytest.raises(CannotStart, match=f"^--state {tmp_path}: another demo is running on it$"):
        open_state(tmp_path).__enter__()
    with open_state(tmp_path):
        pass


def test_the_lock_goes_when_starting_fails(tmp_path: Path) -> None:
    with pytest.raises(CannotStart), open_state(tmp_path):
        raise CannotStart("no")
    with open_state(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match=r"^--state .*/file/state: Not a directory$"):
        open_state(tmp_path / "file" / "state").__enter__()


def test_new_secrets_differ_every_time_and_are_long_enough_for_the_portal(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        first, second = state.read_secrets(), state.read_secrets()
    tokens = {first.admin_token, first.plugin_token, second.admin_token, second.plugin_token}
    assert len(tokens) == 4
    assert min(map(len, tokens)) >= 32


def test_secrets_are_readable_by_this_user_only_and_never_printed(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        state.write_secrets(SECRETS)
        state.write_secrets(SECRETS)
    assert mode(tmp_path / "secrets.json") == 0o600
    assert repr(SECRETS) == "Secrets()"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", json.dumps({"admin_token": "a", "plugin_token": "b"})])
def test_a_damaged_secrets_file_is_named_and_left_alone(tmp_path: Path, text: str) -> None:
    with open_state(tmp_path) as state:
        (tmp_path / "secrets.json").write_text(text)
        with pytest.raises(CannotStart, match=r"secrets\.json is damaged"):
            state.read_secrets()
    assert (tmp_path / "secrets.json").read_text() == text


def test_sockets_get_a_short_path_for_this_user_only_that_goes_away() -> None:
    with socket_folder() as folder:
        assert len(str(folder / "valkey.sock")) < 60
        assert mode(folder) == 0o700
        (folder / "valkey.sock").touch()
    assert not folder.exists()
