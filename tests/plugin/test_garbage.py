"""That the collector may look seldom: what a request made is gone without it."""

import gc
from asyncio import sleep

from builders.plugin import Part, a_check, a_policy, an_account, settled
from farebox.v1.envoy_access_log_pb2 import DownstreamEnd, StreamAccessLogsMessage
from farebox.v1.envoy_authz_pb2 import CheckResponse
from farebox_plugin.access_log import AccessLog
from farebox_plugin.answer import METADATA_NAMESPACE
from farebox_plugin.authz import Authz


class Answers(list[bytes]):
    """Where one Check's answer goes."""

    is_abandoned = False

    def send(self, message: bytes, unread: object = None) -> None:
        self.append(message)

    def fail(self, status: int, detail: str) -> None:
        raise AssertionError(detail)


async def serve(part: Part, authz: Authz, log: AccessLog, api_key: str, requests: int) -> None:
    """Let them in, and settle them; one key in ten is wrong."""
    answers = Answers()
    for number in range(requests):
        authz.check(a_check(api_key if number % 10 else api_key[:-1]), answers)
    while len(answers) < requests:  # noqa: ASYNC110
        await sleep(0)
    message = StreamAccessLogsMessage()
    for answer in map(CheckResponse.FromString, answers):
        if answer.status.code == 0:
            entry = message.http_logs.log_entry.add()
            entry.common_properties.access_log_type = DownstreamEnd
            entry.common_properties.metadata.filter_metadata[METADATA_NAMESPACE].CopyFrom(answer.dynamic_metadata)
            entry.response.response_code.value = 200 if len(message.http_logs.log_entry) % 5 else 500
    log.receive(message.SerializeToString())
    await settled(part)


async def test_a_request_leaves_no_cycles_behind(part: Part) -> None:
    api_key = await part.publish(an_account(10_000), a_policy())
    authz = Authz(part.directory, part.admission, part.recent, part.rebuilder.load, b"", "")
    log = AccessLog(part.link, part.directory, part.settlements)
    await serve(part, authz, log, api_key, 50)
    gc.collect()
    gc.disable()
    try:
        await serve(part, authz, log, api_key, 500)
        assert gc.collect() < 50
    finally:
        gc.enable()
    assert await part.counter() == {"api_requests": 45 - 9 + 450 - 90}
