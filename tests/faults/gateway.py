"""E: Envoy, clients, upstream, and the life of a key."""

import time
from collections.abc import Sequence
from dataclasses import replace

import httpx2

from faults.check import Customer
from faults.impostors import IMPOSTORS
from faults.load import Answer, Question
from faults.run import RATE, Run
from rig.envoy import Envoy


def kill_envoy(run: Run) -> None:
    run.sell(300)
    with run.load(paths=("/v1/slow/300?{tag}={number}", "/v1/echo/{tag}/{number}"), connections=48) as load:
        load.reached(80)
        run.rig.envoy.kill9()
        load.stop()
    run.rig.envoy.start()
    run.operator.gateway.close()
    run.operator.gateway = httpx2.Client(base_url=run.rig.gateway, timeout=30, trust_env=False)


def clients_leave(run: Run) -> None:
    """At every moment: at once, at any time until the answer, in its head; and some stay until its last byte."""
    run.sell(None)

    def leaving(question: Question) -> Question:
        if question.api_key is None:
            return question
        ways = ({}, {"hang_up_after_bytes": 0}, {"hang_up_after_bytes": 20},
                {"hang_up_after_s": run.random.uniform(0, 0.04)})  # fmt: skip
        return replace(question, **run.random.choice(ways))

    paths = ("/v1/slow/20?{tag}={number}", "/v1/echo/{tag}/{number}")
    with run.load(count=800, paths=paths, change=leaving) as load:
        pass
    left = sum(not answer.question.is_patient for answer in load.answers)
    run.notes.append(f"{left} of {len(load.answers)} did not wait for their answer")


def upstream_is_retried(run: Run) -> None:
    """Envoy asks the upstream three times for one request: one charge at most, and none for a failure."""
    sold = run.sell(60)
    paths = ("/v1/status/502?{tag}={number}", "/v1/status/200?{tag}={number}")
    with run.load(sold, count=160, paths=paths):
        pass
    entries = run.rig.upstream_server.entries()
    run.demand(len(entries) > len({entry["path"] for entry in entries}), "Envoy has retried nothing")


def nobody_answers(run: Run) -> None:
    """A gateway whose plugin is missing, silent, talks nonsense or ends every stream: nothing gets through."""
    sold = run.sell(10)
    for name, impostor in IMPOSTORS.items():
        folder = run.rig.sockets / name
        folder.mkdir(exist_ok=True)
        with impostor(folder), Envoy(run.rig.folder / f"envoy-{name}", run.rig.envoy_text(folder)) as envoy:
            for api_key in (sold.api_key, None):
                credential = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
                answer = httpx2.get(
                    f"{envoy.url}/v1/echo/customer_stranger/{name}", headers=credential, trust_env=False, timeout=20
                )
                run.demand(answer.status_code == 503, f"{name}: {answer.status_code} instead of 503")


def revoke(run: Run) -> None:
    """Once somebody was refused for the revoked key, nobody is let in with it any more."""
    sold = run.sell(None)
    with run.load(sold, rate=RATE) as load:
        run.pause(0.5, 1.0)
        revoked_at = time.monotonic()
        run.operator.rest.delete(f"/v1/keys/{sold.key_id}")
        run.rig.wait_until(
            lambda: (
                sum(answer.status == 401 and answer.question.api_key == sold.api_key for answer in load.answers) > 50
            ),
            "the key is refused",
        )
        load.stop()
    mine = [answer for answer in load.answers if answer.question.api_key == sold.api_key]
    first_refused_at = min(answer.answered_at for answer in refused(sold, load.answers))
    late = [answer for answer in mine if answer.status == 200 and answer.asked_at > first_refused_at]
    # The other worker may hear of it a moment later; a second is what the product promises for all of them.
    too_late = [answer for answer in late if answer.asked_at > first_refused_at + 1.0]
    last = max((answer.asked_at for answer in mine if answer.status == 200), default=revoked_at)
    run.notes.append(f"last let in {max(0.0, last - revoked_at) * 1000:.0f} ms after the revocation was asked for")
    run.demand(not too_late, f"{len(too_late)} were let in with a key that was refused before")


def refused(customer: Customer, answers: Sequence[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.status == 401 and answer.question.api_key == customer.api_key]
