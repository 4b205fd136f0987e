"""Requests that two HTTP parsers read in two ways, each with a second request inside."""

from tests.abuse.images import encode, picture


def vectors() -> dict[str, bytes]:
    """Names and bytes. Whatever a parser makes of the first request, the second must not run."""
    image = encode(picture(99), "JPEG")
    inner = (
        b"POST /predict HTTP/1.1\r\nHost: inner\r\nContent-Type: image/jpeg\r\nContent-Length: "
        + str(len(image)).encode()
        + b"\r\n\r\n"
        + image
    )
    chunks = b"0\r\n\r\n" + inner
    length = f"{len(chunks)}".encode()

    def post(*headers: bytes, body: bytes, version: bytes = b"1.1") -> bytes:
        lines = (b"POST /predict HTTP/" + version, b"Host: outer", b"Content-Type: image/jpeg", *headers, b"", b"")
        return b"\r\n".join(lines) + body

    return {
        "length and chunks": post(b"Content-Length: " + length, b"Transfer-Encoding: chunked", body=chunks),
        "chunks and length": post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=chunks),
        "unknown encoding": post(b"Content-Length: " + length, b"Transfer-Encoding: xchunked", body=chunks),
        "encoding with a space before the colon": post(b"Content-Length: " + length, b"Transfer-Encoding : chunked", body=chunks),
        "encoding on a folded line": post(b"Content-Length: " + length, b"Transfer-Encoding:\r\n chunked", body=chunks),
        "two encodings": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=chunks),
        "two lengths": post(b"Content-Length: 0", b"Content-Length: " + length, body=inner),
        "list of lengths": post(b"Content-Length: 0, " + length, body=inner),
        "signed length": post(b"Content-Length: +0", body=inner),
        "length with a space inside": post(b"Content-Length: 0 " + length, body=inner),
        "chunks in HTTP/1.0": post(b"Transfer-Encoding: chunked", body=chunks, version=b"1.0"),
        "huge chunk size": post(b"Transfer-Encoding: chunked", body=b"10000000000000000\r\n\r\n" + chunks),
        "hexadecimal prefix": post(b"Transfer-Encoding: chunked", body=b"0x0\r\n\r\n" + inner),
        "bare line feeds between chunks": post(b"Transfer-Encoding: chunked", body=b"0\n\n" + inner),
        "null byte in a header": post(b"X: a\0b", b"Content-Length: 0", body=inner),
        "bare carriage return in a header": post(b"X: a\rContent-Length: 0", b"Content-Length: " + length, body=chunks),
        "no end of the header name": post(b"Content-Length\0: " + length, body=chunks),
        "upgrade to HTTP/2": post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 0", body=inner),
        "tunnel": b"CONNECT outer:80 HTTP/1.1\r\nHost: outer\r\n\r\n" + inner,
        "body of a GET": b"GET /healthz HTTP/1.1\r\nHost: outer\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner,
        "behind a close": b"GET /healthz HTTP/1.1\r\nHost: outer\r\nConnection: close\r\n\r\n" + inner,
    }
