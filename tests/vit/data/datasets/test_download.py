import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vit.data.datasets import download
from vit.data.datasets.download import Archive, DownloadFailed, Patience, fetch, get, verify

CONTENT = bytes(range(256)) * 1000
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
PATIENCE = Patience(attempts=3, wait=0.001, timeout=0.3)


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; misbehaves in the ways listed in `faults`, one per request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[str] = []
        self.ranges: list[str] = []  # asked for, one per request
        self.content = CONTENT

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/archive.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range", ""))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault.isdigit():
            self.send_error(int(fault))
            return
        if fault.startswith("http"):
            self.send_response(302)
            self.send_header("Location", fault)
            self.end_headers()
            return
        content = self.server.content
        start = 0 if fault == "no ranges" else int(self.headers.get("Range", "bytes=0-")[6:-1])
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        body = content[start:]
        if fault in {"cut", "hang"}:
            body = body[: len(body) // 2]
        self.wfile.write(b"!" + body[1:] if fault == "damage" else body)
        self.wfile.flush()
        if fault == "hang":
            threading.Event().wait(1)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


def archive(server: Server, **changes: object) -> Archive:
    facts = {"name": "archive.tar.gz", "publisher": "the Institute", "url": server.url, "digest": DIGEST}
    return Archive(**(facts | changes))


def test_nothing_is_downloaded_unless_asked(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"archive.tar.gz is missing \(the Institute; sha256:.*with --download"):
        fetch([archive(server)], tmp_path, download=False)
    assert not server.ranges and not list(tmp_path.iterdir())


def test_a_download_is_checked_and_appears_whole(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    (path,) = fetch([archive(server)], tmp_path / "new", download=True, progress=lambda *at: seen.append(at))
    assert path.read_bytes() == CONTENT and list((tmp_path / "new").iterdir()) == [path]
    assert seen[-1] == ("archive.tar.gz", len(CONTENT), len(CONTENT))
    fetch([archive(server)], tmp_path / "new", download=True)
    assert len(server.ranges) == 1, "what is there is not fetched again"


@pytest.mark.parametrize("fault", ["cut", "hang", "503", "429"])
def test_an_interrupted_download_goes_on_where_it_stopped(fault: str, server: Server, tmp_path: Path) -> None:
    server.faults = [fault]
    get(archive(server), tmp_path, progress=None, patience=PATIENCE)
    assert (tmp_path / "archive.tar.gz").read_bytes() == CONTENT
    half = f"bytes={len(CONTENT) // 2}-"
    assert server.ranges == ["", half if fault in {"cut", "hang"} else ""]


def test_a_later_run_completes_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    server.faults = ["cut", "503", "503"]
    with pytest.raises(DownloadFailed, match=r"503 .*3 attempts.*Run again to continue.*from the Institute"):
        get(archive(server), tmp_path, progress=None, patience=PATIENCE)
    assert [path.name for path in tmp_path.iterdir()] == ["archive.tar.gz.part"]
    get(archive(server), tmp_path, progress=None, patience=PATIENCE)
    assert (tmp_path / "archive.tar.gz").read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={len(CONTENT) // 2}-"


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.faults = ["cut", "no ranges"]
    get(archive(server), tmp_path, progress=None, patience=PATIENCE)
    assert (tmp_path / "archive.tar.gz").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"another version", CONTENT + b"more", CONTENT])
def test_what_an_earlier_run_left_is_kept_only_if_it_fits(left: bytes, server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz.part").write_bytes(left)
    get(archive(server), tmp_path, progress=None, patience=PATIENCE)
    assert (tmp_path / "archive.tar.gz").read_bytes() == CONTENT
    assert len(server.ranges) == (1 if left == CONTENT else 2)


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.faults = ["damage"]
    with pytest.raises(DownloadFailed, match=rf"gave a file with sha256:.* where {DIGEST} is published"):
        get(archive(server), tmp_path, progress=None, patience=PATIENCE)
    assert not [path for path in tmp_path.iterdir() if path.stat().st_size]


def test_what_is_gone_is_not_asked_for_twice(server: Server, tmp_path: Path) -> None:
    server.faults = ["404"]
    with pytest.raises(DownloadFailed, match=r"404 .*get archive.tar.gz from the Institute"):
        get(archive(server), tmp_path, progress=None, patience=PATIENCE)
    assert len(server.ranges) == 1 and not list(tmp_path.iterdir())


def test_only_encrypted_connections_are_trusted(server: Server, tmp_path: Path) -> None:
    for url in ("http://example.org/x", "ftp://example.org/x", "file:///etc/passwd"):
        with pytest.raises(DownloadFailed, match=re.escape(f"{url} is not https")):
            get(archive(server, url=url), tmp_path, progress=None, patience=PATIENCE)
    server.faults = ["http://example.org/elsewhere"]
    with pytest.raises(DownloadFailed, match="elsewhere is not https"):
        get(archive(server), tmp_path, progress=None, patience=PATIENCE)
    server.faults = [server.url + "?moved"]
    get(archive(server), tmp_path, progress=None, patience=PATIENCE)


def test_no_checksum_no_download(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="no published checksum"):
        get(archive(server, digest=""), tmp_path, progress=None, patience=PATIENCE)


def test_a_full_disk_is_said_before_it_is_full(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SPARE", 1 << 60)
    with pytest.raises(DownloadFailed, match=r"needs 0.0 GB more, but .* GB free"):
        get(archive(server), tmp_path, progress=None, patience=PATIENCE)


def test_two_downloads_of_one_file_do_not_mix(server: Server, tmp_path: Path) -> None:
    first = threading.Thread(
        target=get, args=(archive(server), tmp_path), kwargs={"progress": None, "patience": PATIENCE}
    )
    server.faults = ["hang"]
    first.start()
    while not server.ranges:
        pass
    with pytest.raises(DownloadFailed, match="another process is downloading"):
        get(archive(server), tmp_path, progress=None, patience=PATIENCE)
    first.join()
    assert (tmp_path / "archive.tar.gz").read_bytes() == CONTENT


def test_what_needs_an_account_is_said_before_anything_is_downloaded(server: Server, tmp_path: Path) -> None:
    closed = archive(server, name="closed.tar", url="", digest="", folders=("train",))
    with pytest.raises(ValueError, match=r"closed.tar is missing.*register with the Institute.*a folder train with"):
        fetch([archive(server), closed], tmp_path, download=True)
    assert not server.ranges
    (tmp_path / "train").mkdir()
    assert fetch([archive(server), closed], tmp_path, download=True)[1] == tmp_path / "train"


def test_what_is_there_must_be_the_published_file(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=rf"{path} has sha256:.*, but archive.tar.gz as published has {DIGEST}"):
        fetch([archive(server)], tmp_path, download=True)
    with pytest.raises(ValueError, match=r"has 255999 bytes, but archive.tar.gz as published has 256000"):
        verify(path, archive(server, size=len(CONTENT)))
    path.write_bytes(CONTENT)
    verify(path, archive(server, size=len(CONTENT)))
    verify(path, archive(server, digest=f"md5:{hashlib.md5(CONTENT).hexdigest()}"))
    assert path.read_bytes() == CONTENT and not server.ranges
