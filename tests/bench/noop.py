"""A gRPC server that decides nothing: the floor of a transport.

python -m bench.noop --transport h2 --listen unix:/tmp/x/w0.sock
"""

import argparse
import asyncio
import importlib
import signal

import uvloop

from farebox.v1.envoy_authz_pb2 import CheckResponse
from farebox.v1.health_pb2 import HealthCheckResponse
from farebox_plugin.transport import Services, StreamReply, UnaryReply
from farebox_plugin.worker import ACCESS_LOGS, CHECK, HEALTH_CHECK

ALLOW = CheckResponse()
ALLOW.ok_response.SetInParent()
_ALLOW = ALLOW.SerializeToString()
_SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()


class Ignored:
    def receive(self, message: bytes) -> None:
        """Read and forgotten."""

    def closed(self) -> None:
        """Nothing to do."""


def check(_: bytes, reply: UnaryReply) -> None:
    reply.send(_ALLOW)


def health(_: bytes, reply: UnaryReply) -> None:
    reply.send(_SERVING)


def access_logs(_: StreamReply) -> Ignored:
    return Ignored()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--transport", required=True)
    parser.add_argument("--listen", required=True)
    arguments = parser.parse_args()
    serve = importlib.import_module(f"farebox_plugin.transport.{arguments.transport}").serve
    services = Services({CHECK: check, HEALTH_CHECK: health}, {ACCESS_LOGS: access_logs})
    transport = await serve(services, arguments.listen)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await transport.stop(0)


if __name__ == "__main__":
    uvloop.run(main())
