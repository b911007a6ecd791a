"""A proxy in front of an S3 server that spoils a planned share of the answers and remembers what was asked.

What happens to the n-th request for an object is a pure function of (seed, method, object, n), whatever threads ask.
"""

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>planned</Message></Error>'
CODES = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied"}
HOP_BY_HOP = {"connection", "keep-alive", "expect", "transfer-encoding"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which answers are spoiled, and how: shares by kind, adding up to at most 1.

    500, 503, 403: an error instead of the answer; reset: the connection breaks in the middle of the body; truncate:
    the body ends early; corrupt: one byte is another; late: nothing comes for `pause` seconds; stall: the second half
    does not; drip: a byte each 50 ms; slow: the body takes `pause` seconds but arrives whole; stale: a listing lacks
    its last object.
    """

    seed: int = 0
    shares: Mapping[str, float] = field(default_factory=dict[str, float])
    methods: tuple[str, ...] = ("GET",)
    pause: float = 2.0

    def fault(self, method: str, path: str, count: int) -> str:
        if method not in self.methods:
            return ""
        left = random.Random(f"{self.seed}/{method}/{path}/{count}").random()
        for kind, share in self.shares.items():
            if left < share:
                return kind
            left -= share
        return ""


@dataclass(frozen=True)
class Request:
    """What the proxy was asked and what it did to the answer ("" for nothing)."""

    method: str
    path: str
    range: str
    fault: str


class FaultProxy:
    """Listens at `url`; `plan` may be replaced at any time, `requests` cleared."""

    def __init__(self, upstream: str) -> None:
        self.plan, self.requests = Plan(), list[Request]()
        self.upstream = urlsplit(upstream).netloc
        self.closing = threading.Event()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def gets(self, name: str = "") -> list[Request]:
        """The GET requests for objects whose path contains `name`."""
        return [request for request in self.requests if request.method == "GET" and name in request.path]

    def decide(self, method: str, path: str, part: str) -> str:
        with self._lock:
            self._counts[method, path] += 1
            fault = self.plan.fault(method, path, self._counts[method, path])
            self.requests.append(Request(method, path, part, fault))
            return fault

    def pause(self, seconds: float) -> None:
        self.closing.wait(seconds)


@contextlib.contextmanager
def in_front_of(upstream: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(upstream)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        proxy.server.shutdown()
        proxy.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True
    proxy: FaultProxy

    def handle_one_request(self) -> None:
        with contextlib.suppress(OSError):  # the client gave up, which is what most faults are for
            super().handle_one_request()

    def log_message(self, *_: object) -> None:
        pass  # `requests` tells

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        fault = self.proxy.decide(self.command, path, self.headers.get("Range", ""))
        if fault in CODES:
            self._send_error(int(fault), CODES[fault])
            return
        if fault == "late":
            self.proxy.pause(self.proxy.plan.pause)
        status, headers, data = self._forward(body)
        if fault == "stale" and b"<Contents>" in data:
            data = data[: data.rfind(b"<Contents>")] + data[data.rfind(b"</Contents>") + len(b"</Contents>") :]
            headers = [(name, str(len(data)) if name.lower() == "content-length" else value) for name, value in headers]
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self._send_body(fault if status < 300 else "", data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815

    def _send_error(self, status: int, code: str) -> None:
        data = b"" if self.command == "HEAD" else ERROR.format(code=code).encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
            if not any(name.lower() == "content-length" for name, _ in headers):
                headers.append(("Content-Length", str(len(data))))
            return answer.status, headers, data
        finally:
            connection.close()

    def _send_body(self, fault: str, data: bytes) -> None:
        half = len(data) // 2
        if fault in ("reset", "truncate", "stall", "drip"):
            self.close_connection = True
            self.wfile.write(data[:half])
        if fault == "reset":
            # Closing with data unsent and no lingering sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
            self.connection.close()
        elif fault == "stall":
            self.proxy.pause(self.proxy.plan.pause)
        elif fault == "drip":
            self._send_slowly([data[place : place + 1] for place in range(half, len(data))], 0.05)
        elif fault == "slow":
            step = len(data) // 10 + 1
            parts = [data[place : place + step] for place in range(0, len(data), step)]
            self._send_slowly(parts, self.proxy.plan.pause / len(parts) if parts else 0)
        elif fault == "corrupt" and data:
            self.wfile.write(data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :])
        elif fault != "truncate":
            self.wfile.write(data)

    def _send_slowly(self, parts: list[bytes], pause: float) -> None:
        for part in parts:
            if self.proxy.closing.is_set():
                return
            self.wfile.write(part)
            time.sleep(pause)
