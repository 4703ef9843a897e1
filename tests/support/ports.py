"""Finds a port for a server that needs to know its port before it starts."""

import secrets
import socket

# Below the ports that systems assign by themselves (Linux from 32768, others from 49152): a server that binds port 0,
# or any outgoing connection, cannot take the port between this check and the start of the server.
PORTS = range(20_000, 32_768)


def free_port() -> int:
    """Return a TCP port of the loopback without a listener that the system does not assign by itself."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: ended calls do not count
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
