"""Finds a port for a server that is told its port before it starts: the benchmark's, the demo's and the tests'."""

import secrets
import socket

# Below the ports that systems deal out by themselves (Linux from 32768, others from 49152): a server that asks for
# port 0, or any outgoing connection, cannot take the port between this look and the start it is meant for.
PORTS = range(20_000, 32_768)


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on, and that the system gives to nobody unasked."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: ended calls do not count
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
