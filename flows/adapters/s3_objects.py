"""What is done with the objects of a bucket: look, list, read a part, fetch whole, put. All of it with retries."""

import contextlib
import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError, IncompleteReadError

from flows.adapters.s3_requests import Patience, client, retrying
from vit.data.store import StoreUnavailable

T = TypeVar("T")
log = logging.getLogger(__name__)
CHUNK = 1_000_000  # bytes in memory while a whole object is fetched
PART = 64_000_000  # bytes above which an object is put in parts; they grow if 10,000 do not suffice
DIGEST = "sha256"  # our metadata on what we put


@dataclass(frozen=True, kw_only=True)
class Head:
    """What S3 tells about an object without sending it."""

    size: int  # bytes
    version: str  # the ETag, which changes with the contents
    sha256: str | None  # known if `upload` put it


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A bucket at the endpoint that the environment names.

    Everything raises FileNotFoundError for an object that does not exist and StoreUnavailable for what the retries
    did not get over; both name s3://bucket/key.
    """

    name: str
    patience: Patience

    def uri(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def endpoint(self) -> str:
        return str(client(self.patience).meta.endpoint_url)

    def head(self, key: str) -> Head:
        answer = self._ask(key, lambda s3: s3.head_object(Bucket=self.name, Key=key))
        sha256 = answer.get("Metadata", {}).get(DIGEST)
        return Head(size=answer["ContentLength"], version=answer["ETag"], sha256=sha256)

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that begin with `prefix`, in pages as S3 gives them; none for folders that a console made."""
        return (key for key, _ in self.listed(prefix))

    def listed(self, prefix: str) -> Iterator[tuple[str, Head]]:
        """The same with size and version of each object, at no more cost; `sha256` is not told."""
        page: dict[str, str] = {}
        while True:
            answer = self._ask(prefix, lambda s3: s3.list_objects_v2(Bucket=self.name, Prefix=prefix, **page))  # noqa: B023
            for item in answer.get("Contents", []):
                if not item["Key"].endswith("/"):
                    yield item["Key"], Head(size=item["Size"], version=item["ETag"], sha256=None)
            if not answer.get("IsTruncated"):
                return
            page = {"ContinuationToken": answer["NextContinuationToken"]}

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset`, or all that follow; fewer where the object ends."""
        if length == 0:
            return b""
        last = "" if length is None else offset + length - 1
        part = {"Range": f"bytes={offset}-{last}"} if offset or length is not None else {}

        def attempt(s3: Any) -> bytes:
            try:
                answer = s3.get_object(Bucket=self.name, Key=key, **part)
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 416:
                    return b""  # the object ends before `offset`
                raise
            with self._body(answer) as body:
                if part:
                    _require_range(answer.get("ContentRange", ""), offset, length)
                return body.read()

        return self._ask(key, attempt)

    def download(self, key: str, file: BinaryIO, head: Head) -> str:
        """Write the whole object to `file` and return its SHA-256; what broke off is continued where it ended."""
        digest, done = hashlib.sha256(), 0

        def attempt(s3: Any) -> None:
            nonlocal digest, done
            part = {"Range": f"bytes={done}-"} if done else {}
            if done == head.size:  # an empty object has no range to ask for
                return
            answer = s3.get_object(Bucket=self.name, Key=key, IfMatch=head.version, **part)
            try:
                with self._body(answer) as body:
                    _require(answer["ContentLength"], head.size - done)
                    for chunk in body.iter_chunks(CHUNK):
                        file.write(chunk)
                        digest.update(chunk)
                        done += len(chunk)
            except FlexibleChecksumError:  # all has come, but not as it was sent
                digest, done = hashlib.sha256(), file.seek(0)
                raise

        self._ask(key, attempt, position=lambda: done)
        return digest.hexdigest()

    def upload(self, path: Path, key: str) -> None:
        """Put a file, which others see whole or not at all; nothing is sent if the object is the same already."""
        with path.open("rb") as file:
            sha256, size = hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
        if self._holds(key, sha256, size):
            return
        plan = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)

        def attempt(_: Any) -> None:
            # Parts that fail are repeated by boto3, not by us: after hours of uploading, only they should be.
            s3 = client(self.patience, attempts=4)
            try:
                s3.upload_file(str(path), self.name, key, ExtraArgs={"Metadata": {DIGEST: sha256}}, Config=plan)
            except S3UploadFailedError as error:
                raise (error.__context__ or error) from error

        self._ask(key, attempt)
        if not self._holds(key, sha256, size):
            raise StoreUnavailable(
                f"{self.uri(key)} is not what was just put from {path}; does something else write it?"
            )
        if size > PART:
            self._drop_parts(key)

    def _drop_parts(self, key: str) -> None:
        """Abort what killed processes began to put there in parts: nobody sees it, and it is paid for."""
        s3 = client(self.patience)
        try:
            begun = s3.list_multipart_uploads(Bucket=self.name, Prefix=key).get("Uploads", [])
            for upload in (one for one in begun if one["Key"] == key):
                s3.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload["UploadId"])
        except (ClientError, BotoCoreError) as error:
            log.warning(
                "parts of an earlier upload of %s may be left, and could not be removed (%s)", self.uri(key), error
            )

    def remove(self, key: str) -> None:
        """Delete an object; nothing happens if there is none."""
        self._ask(key, lambda s3: s3.delete_object(Bucket=self.name, Key=key))

    def _holds(self, key: str, sha256: str, size: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            head = self.head(key)
            return (head.sha256, head.size) == (sha256, size)
        return False

    def _ask(self, key: str, request: Callable[[Any], T], position: Callable[[], int] = lambda: 0) -> T:
        return retrying(
            lambda: request(client(self.patience)), uri=self.uri(key), patience=self.patience, position=position
        )

    @contextlib.contextmanager
    def _body(self, answer: dict[str, Any]) -> Iterator[Any]:
        """The body of an answer, which ends early if it comes too slowly: a read timeout never ends a drip."""
        body, length = answer["Body"], answer["ContentLength"]
        watch = threading.Timer(self.patience.read_timeout + length / self.patience.slowest, _cut, (body,))
        watch.daemon = True
        watch.start()
        try:
            yield body
        finally:
            watch.cancel()
            body.close()


def _require(actual: int, expected: int) -> None:
    if actual != expected:
        raise IncompleteReadError(actual_bytes=actual, expected_bytes=expected)


def _require_range(content_range: str, offset: int, length: int | None) -> None:
    """Raises IncompleteReadError unless "bytes FIRST-LAST/TOTAL" is what was asked for."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range)
    if match is None:
        raise StoreUnavailable(
            "the S3 server does not serve parts of objects; set VITFLOW_CACHE_BYTES to use the cache"
        )
    first, last, total = map(int, match.groups())
    _require(first, offset)
    _require(last + 1, total if length is None else min(offset + length, total))


def _cut(body: Any) -> None:
    """End a body that another thread reads, by closing its socket for reading (urllib3 >= 2.3)."""
    with contextlib.suppress(AttributeError, ValueError, RuntimeError, OSError):
        body._raw_stream.shutdown()
