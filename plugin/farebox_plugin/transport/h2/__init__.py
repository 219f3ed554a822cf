"""The transport for the socket that Envoy uses: a small gRPC server over HTTP/2 (RFC 9113) on asyncio.

It exists because the request path costs a few microseconds, and a general gRPC server in Python costs ten times that
before it calls us. So: one parse of what arrives, calls as plain callbacks, one write for each turn of the event loop.

`frames` knows the bytes, `headers` HPACK, `sending` what leaves a connection, `calls` gRPC, `connection` the rules of
what arrives, `serve` the socket. No TLS: for that, and for a network in between, there is `transport.grpcio`.
"""

from farebox_plugin.transport.h2.serve import serve

__all__ = ["serve"]
