"""How S3 is asked: one client per process, one rule for what is tried again, and sentences for what is not.

boto3's own retries end where the body of an answer begins, so they are off and everything is repeated here: errors of
the server, throttling, timeouts, resets, bodies cut short and bodies that only drip.
"""

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from boto3.session import Session
from botocore import exceptions as failures
from botocore.config import Config
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from vit.data.store import CorruptFile, StoreDown, StoreUnavailable

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for S3 and how often to ask again."""

    attempts: int  # without progress
    first_wait: float  # seconds; doubled after each failure, and of that a random part
    longest_wait: float
    connect_timeout: float
    read_timeout: float  # seconds without a single byte
    slowest: float  # bytes/s over a whole body, beyond the first read_timeout
    total: float  # seconds of failures without progress


PATIENCE = Patience(
    attempts=8, first_wait=0.2, longest_wait=20, connect_timeout=5, read_timeout=60, slowest=50_000, total=240
)
# To ask whether something is there, not to read it.
ONCE = Patience(
    attempts=1, first_wait=0.2, longest_wait=0.2, connect_timeout=3, read_timeout=5, slowest=50_000, total=5
)
THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "BandwidthLimitExceeded"}
LOUD = 3  # failures in a row that are worth a warning
PROGRESS = 1_000_000  # bytes that make it worth beginning to count failures anew
AGAIN = THROTTLED | {"RequestTimeout", "RequestTimeoutException", "InternalError", "ServiceUnavailable"}
MAY_PASS = (
    failures.ConnectionError,
    failures.HTTPClientError,
    failures.IncompleteReadError,
    failures.FlexibleChecksumError,
    ResponseParserError,  # an error page of something in between
    HTTPError,
)
CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
ADVICE = {
    "AccessDenied": f"the credentials in use may not do that (or, without the right to list the bucket, the object "
    f"does not exist); {CREDENTIALS}, and the policy of the bucket",
    "InvalidAccessKeyId": f"the server does not know the access key; {CREDENTIALS}, and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": f"the secret key does not fit the access key; {CREDENTIALS}",
    "ExpiredToken": "the session token has expired; fetch new credentials and run again",
    "InvalidToken": "the session token is not valid; fetch new credentials or unset AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "NoSuchBucket": "the bucket does not exist there; check its name and AWS_ENDPOINT_URL",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION to it",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_REGION to it",
    "IllegalLocationConstraintException": "the bucket is in another region; set AWS_REGION to it",
    "PreconditionFailed": "the object was replaced while it was being read; files of a store must never change",
    "InvalidObjectState": "the object is archived; restore it first",
}
BY_STATUS = {"401": "AccessDenied", "403": "AccessDenied", "301": "PermanentRedirect", "412": "PreconditionFailed"}

_lock = threading.Lock()
_clients: dict[object, Any] = {}


def client(patience: Patience, attempts: int = 1) -> Any:
    """The boto3 client of this process for the AWS_* environment as it is now; safe to share between threads.

    More than one of `attempts` lets boto3 retry by itself. Raises StoreUnavailable if a profile or setting is wrong.
    """
    key = (patience, attempts, *((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    with _lock:
        if key not in _clients:
            _clients[key] = _connect(patience, attempts)
        return _clients[key]


def _connect(patience: Patience, attempts: int) -> Any:
    config = Config(
        connect_timeout=patience.connect_timeout,
        read_timeout=patience.read_timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=32,
        tcp_keepalive=True,
    )
    try:
        return Session().client("s3", config=config)
    except (failures.BotoCoreError, ValueError) as error:
        raise StoreUnavailable(
            f"S3 cannot be used as it is set up ({error}); check AWS_PROFILE, AWS_REGION and AWS_ENDPOINT_URL"
        ) from error


def _forget_inherited() -> None:
    """In a forked child: sockets would be shared with the parent, and the lock may be held by a thread it has not."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()


os.register_at_fork(after_in_child=_forget_inherited)


def retrying(operation: Callable[[], T], *, uri: str, patience: Patience, position: Callable[[], int] = lambda: 0) -> T:
    """The result of `operation`, repeated while it fails in a way that may pass; `position` tells if it got further.

    Raises FileNotFoundError if `uri` does not exist, CorruptFile if no answer has the checksum that the server states,
    and StoreUnavailable; all name `uri` and say what to do.
    """
    failed, since, reached = 0, time.monotonic(), position()
    while True:
        try:
            return operation()
        except (failures.BotoCoreError, failures.ClientError, ResponseParserError, HTTPError) as error:
            if not _may_pass(error):
                _explain(error, uri)
            last = error
        if position() >= reached + PROGRESS:
            failed, since, reached = 0, time.monotonic(), position()
        failed += 1
        spent = time.monotonic() - since
        if failed >= patience.attempts or spent > patience.total:
            raise _given_up(last, uri, f"{failed} attempts over {spent:.0f} s") from last
        wait = _wait(last, failed, patience)
        level = logging.INFO if failed < LOUD else logging.WARNING  # now and then a 503 is S3's daily business
        log.log(level, "%s: %s; attempt %d follows in %.1f s", uri, _reason(last), failed + 1, wait)
        time.sleep(wait)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, failures.ClientError):
        code, status = _code(error)
        return code in AGAIN or status == 429 or (status >= 500 and status != 501)
    return isinstance(error, MAY_PASS) and "CERTIFICATE_VERIFY_FAILED" not in str(error)


def _wait(error: Exception, failed: int, patience: Patience) -> float:
    """Seconds until the next attempt: exponential with full jitter, so that thousands of workers do not return at once.

    A Retry-After of the server is a lower bound.
    """
    wait = random.SystemRandom().uniform(0, min(patience.longest_wait, patience.first_wait * 2**failed))
    if isinstance(error, failures.ClientError):
        asked = str(error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", ""))
        if asked.isdecimal():
            wait += min(float(asked), patience.longest_wait)
    return wait


def _given_up(last: Exception, uri: str, attempts: str) -> Exception:
    if isinstance(last, failures.FlexibleChecksumError):
        return CorruptFile(
            f"{uri} arrived in {attempts} with another checksum than the server has for it; the object, or what lies "
            "between, is damaged: upload it again"
        )
    return StoreDown(
        f"{uri} could not be reached in {attempts}, the last of which ended with: {_reason(last)}; "
        f"check that {_endpoint()} is up and reachable, then run again"
    )


def _explain(error: Exception, uri: str) -> NoReturn:
    if isinstance(error, failures.ClientError):
        code, status = _code(error)
        code = BY_STATUS.get(code, code)
        if code in ("NoSuchKey", "404", "NotFound"):
            raise FileNotFoundError(
                f"{uri} does not exist at {_endpoint()}; check bucket, prefix and AWS_ENDPOINT_URL"
            ) from error
        advice = ADVICE.get(
            code, f"{error.response.get('Error', {}).get('Message', '')}; see your server's documentation"
        )
        raise StoreUnavailable(f"{uri}: {_endpoint()} answered {status} {code}: {advice}") from error
    if isinstance(
        error, (failures.NoCredentialsError, failures.PartialCredentialsError, failures.CredentialRetrievalError)
    ):
        raise StoreUnavailable(f"{uri}: no usable credentials for S3 were found ({error}); {CREDENTIALS}") from error
    advice = "check AWS_ENDPOINT_URL, AWS_REGION and AWS_CA_BUNDLE"
    raise StoreUnavailable(f"{uri} cannot be asked for ({error}); {advice}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, failures.ClientError):
        code, status = _code(error)
        return " ".join(dict.fromkeys(("answer", str(status), code)))
    if isinstance(error, failures.ReadTimeoutError):
        return "nothing came for too long"
    return str(error)


def _code(error: failures.ClientError) -> tuple[str, int]:
    return (
        str(error.response.get("Error", {}).get("Code", "")),
        int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
    )


def _endpoint() -> str:
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return re.sub("//[^/@]*@", "//", named or "") or "the endpoint of the AWS profile or region"  # without a login
