"""The pages for operators say what there is: checks, commands, permissions, routes and refusals by their names."""

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from farebox_portal import cli
from farebox_portal.doctor.run import BY_DATABASE
from farebox_portal.payments.permissions import PERMISSIONS

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("go-live.md", "payment-providers.md")
SOURCES = "\n".join(path.read_text() for path in Path(cli.__file__).parent.rglob("*.py"))


def page(name: str) -> str:
    return (DOCS / name).read_text()


def test_every_check_of_the_doctor_has_its_row() -> None:
    rows = set(re.findall(r"\| `(\w+)` \|$", page("go-live.md"), re.MULTILINE))
    assert rows == {*BY_DATABASE, "authentication", "database", "quota", "envoy"}


def test_every_permission_has_its_row() -> None:
    rows = re.findall(r"^   \| ([A-Z][\w ]+) \| (Read|Write) \|$", page("go-live.md"), re.MULTILINE)
    assert {f"{row}: {level.lower()}" for row, level in rows} == {permission.row for permission in PERMISSIONS}


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_variables_exist(name: str) -> None:
    known = {
        command.name or (command.callback and command.callback.__name__) for command in cli.app.registered_commands
    }
    known |= {group.name for group in cli.app.registered_groups}
    commands = set(re.findall(r"`farebox ([a-z-]+)", page(name)))
    assert commands
    assert {command.replace("-", "_") for command in commands} <= {str(one).replace("-", "_") for one in known}
    for variable in re.findall(r"FAREBOX_(\w+)", page(name)):
        assert variable.lower() in SOURCES, variable


@pytest.mark.parametrize("name", PAGES)
def test_routes_exist(name: str, client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in re.findall(r"(/v1/[\w/{}-]+)", page(name)):
        pattern = re.sub(r"\{\w+\}", "[^/]+", path) + "$"
        assert [known for known in paths if re.match(pattern, known)], path


def test_codes_of_refusals_exist() -> None:
    codes = re.findall(r"`(stripe_\w+)`", page("payment-providers.md"))
    assert len(codes) == 4
    for code in codes:
        assert f'"{code}"' in SOURCES, code
