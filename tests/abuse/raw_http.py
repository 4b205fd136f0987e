"""HTTP byte by byte: what a well-behaved client library would not send."""

import socket


def connect(port: int, *, timeout: float = 20.0) -> socket.socket:
    """Open a connection to the public port."""
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def read_all(connection: socket.socket) -> bytes:
    """Everything that comes until the server closes the connection or falls silent for the socket's timeout."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except (ConnectionResetError, TimeoutError):
        pass
    return received


def statuses(received: bytes) -> list[int]:
    """The status of each response in what was read; bodies here never contain a status line."""
    return [int(piece[:3]) for piece in received.split(b"HTTP/1.1 ")[1:]]
