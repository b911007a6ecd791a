"""A real S3 server on this machine: OpenStack Swift with its s3api, as four processes on free ports of 127.0.0.1.

One replica, no memcached, no log daemon; it needs no root, but a file system with extended attributes. Nothing is sent
anywhere: Swift has no telemetry, and statsd stays off. Any number may run side by side: each has a directory, ports and
a secret of its own, and is used only if it is the one that answers.
"""

import contextlib
import ctypes
import fcntl
import getpass
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY = "test:tester"
ATTEMPTS = 3
PORTS = range(20_000, 32_000)  # below those that the kernel gives to clients, any of which could take one from us
PAGE = 20  # objects in one page of a listing, so that pagination is met by a few objects
SERVERS = {"account": "swift.account.server", "container": "swift.container.server", "object": "swift.obj.server"}
RINGS = """
import sys
from swift.common.ring import RingBuilder
for name, port in zip(("account", "container", "object"), map(int, sys.argv[2:])):
    builder = RingBuilder(2, 1, 1)
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1", "port": port, "device": "disk"})
    builder.rebalance()
    builder.get_ring().save(f"{sys.argv[1]}/{name}.ring.gz")
"""
COMMON = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {root}
devices = {root}/devices
mount_check = false
disable_fallocate = true
log_level = WARNING
container_update_timeout = 60
"""
STORAGE = """
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
conn_timeout = 20
node_timeout = 60
"""
PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck listing_formats s3api tempauth bulk slo proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
max_bucket_listing = {page}
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 20
node_timeout = 60
"""
SWIFT = """
[swift-hash]
swift_hash_path_suffix = tests
[storage-policy:0]
name = only
default = yes
"""


@dataclass(frozen=True)
class Server:
    """Where an S3 server listens, and the keys that it accepts."""

    port: int
    secret_key: str
    processes: "_Processes" = field(repr=False, compare=False)
    access_key: str = ACCESS_KEY

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        """A boto3 client that reaches the server directly and is patient with a busy machine."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(retries={"mode": "standard", "total_max_attempts": 8}),
        )

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Killed for the block, then started again at the same ports with the same data."""
        self.processes.kill()
        try:
            yield
        finally:
            self.processes.start(self)

    def make_bucket(self, name: str) -> str:
        client = self.client()
        # Repeated after an answer that got lost, the request finds the bucket made.
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=name)
        return name


@contextlib.contextmanager
def running(root: Path) -> Iterator[Server]:
    """Start Swift with its data below `root`; stopped at the end, and by the kernel if this process is killed."""
    with contextlib.ExitStack() as stack:
        yield _entered(root, stack, ATTEMPTS)


def _entered(root: Path, stack: contextlib.ExitStack, attempts: int) -> Server:
    try:
        return stack.enter_context(_started(root / f"attempt-{attempts}"))
    except NotOurs:
        if attempts == 1:
            raise
    return _entered(root, stack, attempts - 1)


class NotOurs(RuntimeError):
    """Swift did not start, or something else answers at its port."""


@contextlib.contextmanager
def _started(root: Path) -> Iterator[Server]:
    (root / "devices" / "disk").mkdir(parents=True)
    (root / "swift.conf").write_text(SWIFT)
    with _own_ports(4) as numbers:
        processes = _Processes(root, dict(zip([*SERVERS, "proxy"], numbers, strict=True)))
        server = Server(processes.ports["proxy"], secrets.token_hex(16), processes)
        for name, port in processes.ports.items():
            common = COMMON.format(port=port, user=getpass.getuser(), root=root)
            own = PROXY.format(page=PAGE, secret=server.secret_key) if name == "proxy" else STORAGE.format(name=name)
            (root / f"{name}-server.conf").write_text(common + own)
        ports = [str(processes.ports[name]) for name in SERVERS]
        subprocess.run([sys.executable, "-c", RINGS, root, *ports], check=True)
        try:
            processes.start(server)
            yield server
        finally:
            processes.kill()


class _Processes:
    """The four of a server."""

    def __init__(self, root: Path, ports: dict[str, int]) -> None:
        self.root, self.ports = root, ports
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, server: "Server") -> None:
        """Returns once they answer; raises NotOurs."""
        for name, module in {**SERVERS, "proxy": "swift.proxy.server"}.items():
            self._running.append(_start(self.root, name, module))
        _wait(self.root, list(self.ports.values()), self._running, server)

    def kill(self) -> None:
        for process in self._running:
            process.kill()
        while self._running:
            self._running.pop().wait()


def _start(root: Path, name: str, module: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", f"from {module} import main; main()", root / f"{name}-server.conf", "-v"]
    with (root / f"{name}.log").open("ab") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=_environment(), preexec_fn=_die_with_parent
        )


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _wait(root: Path, ports: list[int], processes: "list[subprocess.Popen[bytes]]", server: Server) -> None:
    """Until all four answer and the proxy knows the secret; raises NotOurs."""
    end, problem = time.monotonic() + 120, "nothing answered"
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        try:
            for port in ports:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
            server.client().list_buckets()
            if all(process.poll() is None for process in processes):  # else the answer came from somebody else
                return
        except (OSError, BotoCoreError, ClientError) as error:
            problem = str(error)
        time.sleep(0.1)
    logs = "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(root.glob("*.log")))
    raise NotOurs(f"Swift did not start in {root}: {problem}\n{logs}")


@contextlib.contextmanager
def _own_ports(count: int) -> Iterator[list[int]]:
    """Ports that nothing listens at, and that no other tests on this machine take while the block runs."""
    folder = Path(tempfile.gettempdir(), f"vitflow-test-ports-{getpass.getuser()}")
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            lock = stack.enter_context((folder / str(port)).open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                socket.create_server(("127.0.0.1", port)).close()
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                break
        yield found
