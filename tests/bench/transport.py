"""CPU of the server for each call: the grpcio transport and the h2 transport, each on uvloop in a process of its own,
answering a Check-sized message without deciding anything, to the same grpcio client in the same run.

The ratio is what counts; the absolute figures are this machine's, now.
Run: .venv/bin/python tests/bench/transport.py [--calls 20000] [--concurrency 64]
"""

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
import grpc.aio
import psutil
import uvloop

from farebox_plugin.transport import Services, UnaryReply, grpcio, h2

METHOD = "/envoy.service.auth.v3.Authorization/Check"
REQUEST, ANSWER = b"q" * 900, b"a" * 350  # bytes of a typical CheckRequest and of its CheckResponse
WARM_UP = 2000
START_TIMEOUT_S = 20.0
TRANSPORTS = {"grpcio": grpcio.serve, "h2": h2.serve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--serve", nargs=2, metavar=("TRANSPORT", "ADDRESS"), help="be the server")
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(_serve(*arguments.serve))
        return
    cost_us = {name: _measure(name, arguments.calls, arguments.concurrency) for name in TRANSPORTS}
    for name, cost in cost_us.items():
        print(f"{name:8}{cost:8.1f} µs of the server's CPU a call")
    print(f"ratio   {cost_us['grpcio'] / cost_us['h2']:8.1f}")


async def _serve(name: str, address: str) -> None:
    def check(_: bytes, reply: UnaryReply) -> None:
        reply.send(ANSWER)

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    transport = await TRANSPORTS[name](Services({METHOD: check}, {}), address)
    await stop.wait()
    await transport.stop(0)


def _measure(name: str, calls: int, concurrency: int) -> float:
    """CPU microseconds for each call, over `calls` of them after a warm-up."""
    folder = Path(tempfile.mkdtemp(prefix="fbb-"))
    address = f"unix:{folder}/w0.sock"
    server = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--serve", name, address])
    try:
        return asyncio.run(_drive(psutil.Process(server.pid), address, calls, concurrency))
    finally:
        server.terminate()
        server.wait(START_TIMEOUT_S)
        shutil.rmtree(folder)


async def _drive(server: psutil.Process, address: str, calls: int, concurrency: int) -> float:
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD)
        assert await call(REQUEST, wait_for_ready=True, timeout=START_TIMEOUT_S) == ANSWER
        await _call_many(call, WARM_UP, concurrency)
        before = server.cpu_times()
        await _call_many(call, calls, concurrency)
        after = server.cpu_times()
    return (after.user + after.system - before.user - before.system) / calls * 1e6


async def _call_many(call: grpc.aio.UnaryUnaryMultiCallable, calls: int, concurrency: int) -> None:
    async def one_after_another() -> None:
        for _ in range(calls // concurrency):
            await call(REQUEST)

    await asyncio.gather(*(one_after_another() for _ in range(concurrency)))


if __name__ == "__main__":
    main()
