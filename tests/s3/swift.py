"""A real S3 server on this machine: OpenStack Swift with its s3api, as four processes on free ports of 127.0.0.1.

One replica, no memcached, no log daemon; it needs no root, but a file system with extended attributes. Nothing is sent
anywhere: Swift has no telemetry, and statsd stays off.
"""

import contextlib
import ctypes
import getpass
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

ACCESS_KEY, SECRET_KEY = "test:tester", "testing"
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
user_test_tester = testing .admin
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
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

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

    def make_bucket(self, name: str) -> str:
        client = self.client()
        # Repeated after an answer that got lost, the request finds the bucket made.
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=name)
        return name


@contextlib.contextmanager
def running(root: Path) -> Iterator[Server]:
    """Start Swift with its data below `root`; stopped at the end, and by the kernel if this process is killed."""
    (root / "devices" / "disk").mkdir(parents=True)
    ports = dict(zip([*SERVERS, "proxy"], _free_ports(4), strict=True))
    (root / "swift.conf").write_text(SWIFT)
    for name, port in ports.items():
        common = COMMON.format(port=port, user=getpass.getuser(), root=root)
        own = PROXY.format(page=PAGE) if name == "proxy" else STORAGE.format(name=name)
        (root / f"{name}-server.conf").write_text(common + own)
    subprocess.run([sys.executable, "-c", RINGS, root, *(str(ports[name]) for name in SERVERS)], check=True)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for name, module in {**SERVERS, "proxy": "swift.proxy.server"}.items():
            processes.append(_start(root, name, module))
        _wait(root, ports["proxy"], processes)
        yield Server(ports["proxy"])
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _start(root: Path, name: str, module: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", f"from {module} import main; main()", root / f"{name}-server.conf", "-v"]
    with (root / f"{name}.log").open("wb") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=_environment(), preexec_fn=_die_with_parent
        )


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _wait(root: Path, port: int, processes: "list[subprocess.Popen[bytes]]") -> None:
    """Until the proxy and, behind it, account, container and object servers answer."""
    end = time.monotonic() + 120
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    ports = [int(line.split("=")[1]) for path in root.glob("*-server.conf") for line in _bind_lines(path)]
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        with contextlib.suppress(OSError, urllib.error.URLError):
            opener.open(f"http://127.0.0.1:{port}/healthcheck", timeout=5).close()
            for other in ports:
                socket.create_connection(("127.0.0.1", other), timeout=5).close()
            return
        time.sleep(0.1)
    logs = "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(root.glob("*.log")))
    raise RuntimeError(f"Swift did not start in {root}\n{logs}")


def _bind_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith("bind_port")]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [taken.getsockname()[1] for taken in sockets]
    finally:
        for taken in sockets:
            taken.close()
