"""`farebox apply`, `diff`, `export` and `rate` as a user runs them: real processes, against real portals."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
import yaml
from sqlalchemy import Engine

from builders.databases import Databases
from builders.portal import a_batch, an_event
from builders.subscriptions import an_order
from farebox_portal.app import create_app
from farebox_portal.clock import FrozenClock
from farebox_portal.db import transaction
from farebox_portal.settings import Settings
from farebox_portal.usage.ingest import apply_batch
from rig.ports import free_port

EXAMPLES = Path(__file__).parents[3] / "examples"
Run = Callable[..., subprocess.CompletedProcess[str]]

CARD = """\
type: usage_based
key: api_requests
name: API requests
featureKey: api_requests
billingCadence: P1M
price:
  type: tiered
  mode: graduated
  tiers:
    - {upToAmount: 1000, unitPrice: 0.10}
    - {upToAmount: 10000, unitPrice: 0.05}
    - {unitPrice: 0.01}
"""


@contextmanager
def served(settings: Settings, engine: Engine, clock: FrozenClock) -> Iterator[str]:
    """A portal's address."""
    port = free_port()
    config = uvicorn.Config(create_app(settings, engine, clock), port=port, log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    began = threading.Event()
    thread = threading.Thread(target=server.run, name="portal")
    thread.start()
    try:
        while not server.started and thread.is_alive():
            began.wait(0.01)
        assert server.started
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def portal(settings: Settings, engine: Engine, clock: FrozenClock) -> Iterator[str]:
    with served(settings, engine, clock) as url:
        yield url


@pytest.fixture
def elsewhere(settings: Settings, databases: Databases, clock: FrozenClock) -> Iterator[str]:
    with databases.migrated() as engine, served(settings, engine, clock) as url:
        yield url


@pytest.fixture
def farebox(settings: Settings, tmp_path: Path) -> Run:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    token = tmp_path / "token"
    token.write_text(settings.admin_token.get_secret_value() + "\n")

    def run(*arguments: str, at: str = "", given: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        environ = kept | {"FAREBOX_PORTAL_URL": at, "FAREBOX_ADMIN_TOKEN_FILE": str(token)} | variables
        command = [sys.executable, "-m", "farebox_portal", *arguments]
        return subprocess.run(
            command, env=environ, input=given, capture_output=True, text=True, timeout=60, cwd=tmp_path
        )

    return run


def test_a_catalog_goes_from_files_to_one_portal_and_from_there_to_another(
    farebox: Run, portal: str, elsewhere: str
) -> None:
    files = [str(EXAMPLES / "trial.yaml"), str(EXAMPLES / "per-model-tokens.yaml")]
    differs = farebox("diff", *files, at=portal)
    assert (differs.returncode, differs.stderr) == (1, "")
    assert "+ plan team version 1 created, draft\n" in differs.stdout
    assert differs.stdout.endswith("(dry run: nothing was written)\n")

    applied = farebox("apply", *files, "--publish", at=portal)
    assert applied.returncode == 0, applied.stderr
    assert "+ plan team version 1 created, active, published now\n" in applied.stdout
    assert farebox("diff", *files, "--publish", at=portal).returncode == 0

    exported = farebox("export", at=portal)
    assert exported.returncode == 0, exported.stderr
    assert [plan["key"] for plan in yaml.safe_load(exported.stdout)["plans"]] == ["team", "tokens"]
    assert farebox("apply", "-", "--publish", at=elsewhere, given=exported.stdout).returncode == 0
    same = farebox("diff", "-", "--prune", "--json", at=elsewhere, given=exported.stdout)
    assert same.returncode == 0, same.stdout
    assert {item["action"] for item in json.loads(same.stdout)["items"]} == {"unchanged"}
    assert farebox("export", at=elsewhere).stdout == exported.stdout


def test_what_changed_is_shown_with_its_place(farebox: Run, portal: str) -> None:
    text = (EXAMPLES / "quota-overage.yaml").read_text()
    farebox("apply", "-", "--publish", at=portal, given=text)
    dearer = farebox("diff", "-", at=portal, given=text.replace('"9.99"', '"12.99"'))
    assert dearer.returncode == 1
    assert "~ plan growth version 2 changed, draft\n" in dearer.stdout
    assert '    /phases/default/rateCards/base_fee/price/amount: "9.99" → "12.99"\n' in dearer.stdout
    dry = farebox("apply", "-", "--dry-run", at=portal, given=text.replace('"9.99"', '"12.99"'))
    assert dry.returncode == 0
    assert farebox("diff", "-", at=portal, given=text).returncode == 0, "a dry run wrote something"


def test_every_fault_has_its_file_and_line(farebox: Run, portal: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text((EXAMPLES / "trial.yaml").read_text().replace("duration: P14D", "duration: 2w"))
    (tmp_path / "meter.yaml").write_text("# no such thing\nmeters:\n  - slug: x\n    aggregation: SOME\n")
    ended = farebox("apply", "plan.yaml", "meter.yaml", at=portal)
    assert (ended.returncode, ended.stdout) == (2, "")
    lines = ended.stderr.splitlines()
    line = 1 + (tmp_path / "plan.yaml").read_text().splitlines().index("        duration: 2w")
    assert any(one.startswith(f"farebox: plan.yaml:{line}: /plans/0/phases/0/duration: must be") for one in lines)
    assert any(one.startswith("farebox: meter.yaml:4: /meters/0/aggregation: ") for one in lines)
    assert '"meters": []' in farebox("export", "--json", at=portal).stdout, "something was written all the same"


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"at": "http://127.0.0.1:9"}, "FAREBOX_PORTAL_URL: http://127.0.0.1:9 does not answer (ConnectError)"),
        ({"at": "nowhere"}, "FAREBOX_PORTAL_URL: must be http://HOST or https://HOST"),
        ({"FAREBOX_ADMIN_TOKEN_FILE": ""}, "FAREBOX_ADMIN_TOKEN: is required but not set"),
        ({"FAREBOX_ADMIN_TOKEN_FILE": "/none"}, "FAREBOX_ADMIN_TOKEN_FILE: cannot read /none"),
    ],
    ids=["away", "url", "none", "file"],
)
def test_a_portal_that_cannot_be_asked_is_one_line_and_not_a_difference(
    farebox: Run, variables: dict[str, str], reason: str
) -> None:
    ended = farebox("diff", str(EXAMPLES / "trial.yaml"), **variables)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"farebox: {reason}\n")


def test_a_wrong_token_is_said_and_not_shown(farebox: Run, portal: str) -> None:
    ended = farebox("export", at=portal, FAREBOX_ADMIN_TOKEN="a-wrong-token-of-mine")
    assert ended.returncode == 2
    assert ended.stderr == "farebox: the portal says 401: The bearer token is not valid.\n"


def test_a_rate_card_is_rated_without_a_portal(farebox: Run, tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text(CARD)
    shown = farebox("rate", "--rate-card", "card.yaml", "--quantity", "15000")
    assert shown.stdout.splitlines()[-1].split() == ["Total", "USD", "600.00"], shown.stderr
    as_json = farebox("rate", "--rate-card", "-", "--quantity", "1000", "--json", "--currency", "JPY", given=CARD)
    line = {"description": "API requests: up to 1,000", "quantity": "1000", "unitAmount": "0.1", "amount": "100"}
    assert json.loads(as_json.stdout) == {"currency": "JPY", "total": "100", "lines": [line | {"tier": 1}]}


@pytest.mark.parametrize(
    ("options", "text", "lines"),
    [
        (("--quantity", "-1"), CARD, ['must be a quantity of 0 or more, such as "15000" or "20.5"']),
        (("--quantity", "NaN"), CARD, ['must be a quantity of 0 or more, such as "15000" or "20.5"']),
        (("--quantity", "1", "--currency", "usd"), CARD, ["'usd' is not an ISO 4217 currency code such as USD"]),
        (
            ("--quantity", "1"),
            CARD.replace("0.05", "-1").replace("name:", "nam:"),
            [
                "-:3: /nam: is not a field we know",
                "-:11: /price/tiers/1/unitPrice: must be 0 or more",
                "-:1: /name: is required",
            ],
        ),
        (("--quantity", "1"), "", ["-: must hold one document"]),
        (("--quantity", "1"), "[]", ["-:1: must be an object"]),
    ],
    ids=["negative", "nan", "currency", "faults", "empty", "list"],
)
def test_a_rate_card_at_fault_says_where(farebox: Run, options: tuple[str, ...], text: str, lines: list[str]) -> None:
    ended = farebox("rate", "--rate-card", "-", *options, given=text)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [f"farebox: {line}" for line in lines]


def test_past_usage_is_priced_anew_by_a_file(
    farebox: Run, portal: str, engine: Engine, tmp_path: Path, clock: FrozenClock
) -> None:
    now = clock.now()
    assert farebox("apply", str(EXAMPLES / "quota-overage.yaml"), "--publish", at=portal).returncode == 0
    with transaction(engine) as session:
        row = an_order(session, "growth", now=now)
        apply_batch(session, a_batch(an_event(row, at=now, api_requests=1500)), now)
    month = ("--from", now.date().isoformat(), "--to", "2026-02-28T00:00:00Z")
    dearer = (EXAMPLES / "quota-overage.yaml").read_text().replace('"0.01"', '"0.03"')
    shown = farebox("simulate", "--plan", "-", *month, at=portal, given=dearer)
    assert shown.returncode == 0, shown.stderr
    *rows, affected = shown.stdout.splitlines()
    assert [row.split() for row in rows] == [
        ["Customer", "Now", "Then", "Difference", "Over", "the", "limit"],
        ["acme", "14.99", "24.99", "10.00"],
        ["Total", "USD", "14.99", "24.99", "10.00"],
    ]
    assert affected == "Customers: 1; paying more 1, less 0, the same 0; over a hard limit 0"
    as_json = farebox("simulate", "--plan", "-", *month, "--json", at=portal, given=dearer)
    assert json.loads(as_json.stdout)["difference"] == "10.00"
    wrong = farebox("simulate", "--plan", "-", *month, at=portal, given=dearer.replace("currency: USD", "currency: X"))
    line = 1 + dearer.splitlines().index("    currency: USD")
    assert wrong.stderr == f"farebox: -:{line}: /plans/0/currency: must be an ISO 4217 currency code such as USD\n"
    never = farebox("simulate", "--plan", "-", "--from", "soon", "--to", "later", at=portal, given=dearer)
    assert (never.returncode, "--from: must be an instant or a day" in never.stderr) == (2, True)


@pytest.mark.parametrize("command", ["apply", "export", "diff", "rate", "simulate"])
def test_help_has_an_example(farebox: Run, command: str) -> None:
    assert f"Example: farebox {command}" in farebox(command, "--help").stdout
