"""Small sets of files as a training would see them: shards of samples, each with its place and SHA-256."""

import contextlib
import dataclasses
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from flows.adapters.file_cache import FileCache
from flows.adapters.s3_requests import PATIENCE, Patience
from flows.adapters.s3_store import S3Store
from vit.data.store import LocalStore, Store

SHARD = "train-00000.tar"  # of every corpus here
PAUSE = 0.6  # seconds; IMPATIENT waits less
BAD_DAY = {"500": 0.1, "503": 0.1, "reset": 0.05, "truncate": 0.05, "corrupt": 0.05, "late": 0.02, "stall": 0.02}
# As patient as in production, but not as slow: with a test's faults every wait is in vain.
IMPATIENT = dataclasses.replace(
    PATIENCE, first_wait=0.01, longest_wait=0.1, connect_timeout=5, read_timeout=0.4, slowest=1e6, total=20
)


@dataclass(frozen=True)
class Sample:
    id: str
    shard: str
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True)
class Corpus:
    """Shards on the disk, and what an index would say about them."""

    directory: Path
    shards: dict[str, str]  # name → SHA-256
    samples: list[Sample]


def make_corpus(directory: Path, *, shards: int, samples: int, seed: int = 0) -> Corpus:
    """Shards of random bytes, some kB for each sample."""
    source = random.Random(seed)
    directory.mkdir(parents=True)
    digests, places = dict[str, str](), list[Sample]()
    for shard in (f"train-{number:05d}.tar" for number in range(shards)):
        data = b""
        for number in range(samples):
            sample = source.randbytes(source.randint(1000, 5000))
            places.append(Sample(f"{shard}/{number}", shard, len(data), len(sample), _sha256(sample)))
            data += sample
        (directory / shard).write_bytes(data)
        digests[shard] = _sha256(data)
    return Corpus(directory, digests, places)


def read_epoch(store: Store, corpus: Corpus, *, seed: int = 0, window: int = 2) -> Iterator[str]:
    """The ids of an epoch, in two-level order with prefetch; each sample is read and compared with its SHA-256."""
    order = random.Random(seed)
    shards = order.sample(sorted(corpus.shards), len(corpus.shards))
    store.expect(corpus.shards)
    store.prefetch(shards)
    for start in range(0, len(shards), window):
        inside = [sample for sample in corpus.samples if sample.shard in shards[start : start + window]]
        for sample in order.sample(inside, len(inside)):
            data = store.read(sample.shard, sample.offset, sample.length)
            assert _sha256(data) == sample.sha256, f"{sample.id} is corrupt"
            yield sample.id


def expected_ids(corpus: Corpus, seed: int = 0) -> list[str]:
    """The epoch as the disk gives it."""
    return list(read_epoch(LocalStore(corpus.directory), corpus, seed=seed))


def bytes_on_disk(cache: Path) -> int:
    """What a cache takes up at one moment, while others fetch into it."""
    sizes: dict[str, int] = {}
    with FileCache(cache, 0)._exclusive("eviction", "a test"):  # nothing is reserved or evicted meanwhile
        # In this order: what moves is met twice, under one name.
        for path in chain((cache / "parts").iterdir(), (cache / "files").iterdir()):
            with contextlib.suppress(FileNotFoundError):
                sizes[path.name] = path.stat().st_size
    return sum(sizes.values())


def s3_store(uri: str, cache: Path, *, cache_bytes: int = 10**9, patience: Patience = IMPATIENT) -> S3Store:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return S3Store(bucket=bucket, prefix=prefix, cache=cache, cache_bytes=cache_bytes, patience=patience)


def environment(url: str, access_key: str, secret_key: str) -> dict[str, str]:
    """What makes boto3 use that server and nothing else of this machine."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere",  # DVC would open a path that exists
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "NO_PROXY": "127.0.0.1",
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
