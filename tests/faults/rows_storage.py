"""Rows about where bytes lie: S3 on a bad day, full and read-only disks, wrong clocks."""

import contextlib
import dataclasses
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from flows.stages.config import STAGES
from tests.checkout import hashes, run
from tests.faults import bed as beds
from tests.faults import faults
from tests.faults.bed import PRETRAIN, Bed, started
from tests.faults.row import Draw, NotRun, Row, Trial
from tests.s3 import stores
from tests.s3.proxy import FaultProxy, Plan, in_front_of

S3_STEPS = 20
BUCKET = "faults"
# In a shell: says whether an output that was begun is still there.
LEFT = 'find "$place" -name "*.writing-*" | grep -q . && echo half-written'


def in_s3(where: Bed) -> Path:
    """A checkout whose corpus lies in S3; de-duplicated, with a short pre-training next."""
    path = where.root / "in-s3"
    if BUCKET not in [one["Name"] for one in where.swift.client().list_buckets()["Buckets"]]:
        in_bucket(where)
    if path.exists():
        return path
    keys = stores.environment(where.swift.url, where.swift.access_key, where.swift.secret_key)
    made = where.copy(where.checkout)
    config = yaml.safe_load((made / "pipelines.yaml").read_text())
    prepare = config["pipelines"]["smoke"]["prepare"]
    prepare |= {"source": "reference", "location": f"s3://{BUCKET}/corpus", "planted_fraction": 0.0, "num_images": 0}
    (made / "pipelines.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    beds.configure(made, pretrain={"steps": S3_STEPS, "save_every": 10, "log_every": 2})
    done = run(made, "dvc", "repro", "deduplicate@smoke", **keys, VITFLOW_CACHE=str(where.root / "cache"))
    assert done.returncode == 0, done.stderr
    beds.commit(made)
    return made.rename(path)


def in_bucket(where: Bed) -> None:
    """The corpus, on the S3 server that runs now."""
    where.swift.make_bucket(BUCKET)
    for file in (where.checkout / "runs/smoke/prepare/corpus").iterdir():
        where.swift.client().upload_file(str(file), BUCKET, f"corpus/{file.name}")


@dataclasses.dataclass
class Remote:
    """A pre-training on a corpus in S3, behind a proxy that spoils answers."""

    checkout: Path
    proxy: FaultProxy
    env: dict[str, str]

    def train(self, **env: str) -> tuple[int, str, float]:
        """Exit code, output, seconds."""
        start = time.monotonic()
        with started(self.checkout, *PRETRAIN, **self.env | env) as training:
            code = training.end(400)
            return code, training.text(), time.monotonic() - start


@contextlib.contextmanager
def behind_proxy(where: Bed, draw: Draw) -> Iterator[Remote]:
    checkout = in_s3(where)
    with in_front_of(where.swift.url) as proxy:
        env = stores.environment(proxy.url, where.swift.access_key, where.swift.secret_key)
        env |= {"VITFLOW_WORKERS": "0", "VITFLOW_CACHE": str(where.root / f"cache-{time.monotonic_ns()}")}
        env["VITFLOW_CACHE_BYTES"] = "0"  # a request for each image
        yield Remote(checkout, proxy, env)
    beds.forget(checkout)


def quiet_day(where: Bed, draw: Draw) -> tuple[dict[str, str], float]:
    """What the training on S3 makes when all is well, and in how many seconds; measured once."""
    if not hasattr(where, "_quiet_day"):
        with behind_proxy(where, draw) as remote:
            code, text, seconds = remote.train()
            assert code == 0, text[-2000:]
            where._quiet_day = beds.take(remote.checkout, "pretrain"), seconds
    return where._quiet_day


BAD = {"500": 0.05, "503": 0.05, "reset": 0.05}


@dataclasses.dataclass(frozen=True)
class OnShards(Plan):
    """The fault hits the n-th request for a shard and no other; every one if n is 0."""

    kind: str = ""
    number: int = 0

    def fault(self, method: str, path: str, count: int) -> str:
        hit = method == "GET" and path.endswith(".tar") and self.number in (0, count)
        return self.kind if hit else ""


def bad_day_of_s3(where: Bed, draw: Draw) -> Trial:
    expected, quiet = quiet_day(where, draw)
    kind = draw.of("errors", "latency", "stall", "all fail")
    with behind_proxy(where, draw) as remote:
        if kind == "errors":
            remote.proxy.plan = Plan(seed=draw.source.randrange(1000), shares=BAD)
        elif kind == "latency":
            remote.proxy.plan = Plan(shares={"late": 1}, pause=2)
        elif kind == "stall":
            remote.proxy.plan = OnShards(kind="stall", number=draw.source.randrange(1, 300), pause=90)
        else:
            remote.proxy.plan = Plan(shares={"503": 1})
        whole = {"VITFLOW_CACHE_BYTES": "1G"} if kind == "latency" else {}
        code, text, seconds = remote.train(**whole)
        if kind == "all fail":
            assert code != 0 and seconds < 300, f"{code} after {seconds:.0f} s"
            assert f"s3://{BUCKET}/corpus/" in text and remote.proxy.url in text, text[-2000:]
            return Trial(seconds=seconds)
        assert code == 0, text[-2000:]
        beds.same(beds.take(remote.checkout, "pretrain"), expected)
        assert [request for request in remote.proxy.requests if request.fault], "nothing was spoiled"
        allowed = {"errors": quiet, "latency": quiet, "stall": 65}[kind]
        assert seconds < quiet + allowed, f"{seconds:.0f} s instead of {quiet:.0f}"
        return Trial(seconds=seconds - quiet)


def wrong_answers_of_s3(where: Bed, draw: Draw) -> Trial:
    expected, _ = quiet_day(where, draw)
    kind = draw.of("truncate", "corrupt", "always corrupt", "403", "stale")
    with behind_proxy(where, draw) as remote:
        number, env = draw.source.randrange(1, 300), {}
        remote.proxy.plan = OnShards(kind=kind, number=number)
        if kind in ("corrupt", "always corrupt"):  # a shard is compared with its digest when it is whole
            env = {"VITFLOW_CACHE_BYTES": "1G"}
            remote.proxy.plan = OnShards(kind="corrupt", number=1 if kind == "corrupt" else 0)
        if kind == "stale":
            remote.proxy.plan = Plan(shares={"stale": 1})
        code, text, seconds = remote.train(**env)
        assert [request for request in remote.proxy.requests if request.fault], "nothing was spoiled"
        if kind in ("truncate", "corrupt") or (kind == "stale" and code == 0):  # the index decides, not the listing
            assert code == 0, text[-2000:]
            beds.same(beds.take(remote.checkout, "pretrain"), expected)
            return Trial(seconds=seconds)
        assert code == 1 and f"s3://{BUCKET}/corpus" in text and "Traceback" not in text, text[-2000:]
        said = {"403": "AccessDenied", "stale": "missing", "always corrupt": "has SHA-256"}[kind]
        assert said in text, text[-2000:]
    return Trial(seconds=seconds)


UPLOAD = """
import sys
from pathlib import Path
from flows.adapters import s3_objects, storage
s3_objects.PART = 5 * 2**20
print("now", flush=True)
storage.put(Path(sys.argv[1]), sys.argv[2])
"""


def killed_upload(where: Bed, draw: Draw) -> Trial:
    """A file of five parts, put by a process that is killed in one of them."""
    name = f"{BUCKET}-up-{draw.number}"
    where.swift.make_bucket(name)
    file, key = where.root / "large.bin", f"large-{draw.number}.bin"
    file.write_bytes(random.Random(draw.number).randbytes(24 * 2**20))
    client, command = where.swift.client(), (sys.executable, "-c", UPLOAD, str(file), f"s3://{name}/{key}")
    with in_front_of(where.swift.url) as proxy:
        env = stores.environment(proxy.url, where.swift.access_key, where.swift.secret_key)
        with started(where.checkout, *command, **env) as upload:
            upload.wait(lambda: len(proxy.requests) >= draw.source.randrange(2, 7))
            faults.kill(upload.head)
        start = time.monotonic()
        assert "Contents" not in client.list_objects_v2(Bucket=name, Prefix=key), "a half-written object is visible"
        with started(where.checkout, *command, **env) as again:
            assert again.end() == 0, again.text()[-2000:]
    assert client.get_object(Bucket=name, Key=key)["Body"].read() == file.read_bytes()
    left = client.list_multipart_uploads(Bucket=name, Prefix=key).get("Uploads", [])
    assert not left, f"parts of {len(left)} uploads are left, and paid for"
    return Trial(seconds=time.monotonic() - start)


def full_disk(where: Bed, draw: Draw) -> Trial:
    """runs/ on a disk with room for its inputs and a part of the stage's output; room is made, it is run again."""
    if not faults.can_mount():
        raise NotRun("nobody may mount a small disk here")
    stage = draw.of(*STAGES[:-1])
    share = draw.source.uniform(0.1, 0.95)
    checkout = where.copy(where.finished)
    runs = checkout / "runs/smoke"
    expected = hashes(runs / stage)
    size = sum(path.stat().st_size for path in (runs / stage).rglob("*") if path.is_file())
    faults.remove(runs / stage, draw.source)
    rest = sum(-(-path.stat().st_size // 4096) * 4096 for path in runs.rglob("*") if path.is_file())
    room = rest + int(size * share)
    room_again = 'mount -o remount,size=1G "$place"; "$@" && cp -a "$place"/. "$result"'
    script = f'"$@"; echo "exit code $?"; {LEFT}; {room_again}'
    result = where.root / f"full-{draw.number}"
    result.mkdir()
    stage_door = (sys.executable, "-m", "flows.stages", stage, "smoke")
    command = faults.on_small_disk(runs, f"size={room}", script, *stage_door)
    start = time.monotonic()
    with started(checkout, *command, VITFLOW_WORKERS="0", result=str(result)) as twice:
        code, text = twice.end(), twice.text()
    assert "exit code 1" in text and code == 0, f"{stage} with {share:.0%}: {code}: {text[-2500:]}"
    assert "no space left" in text.lower() and "free some space" in text and "Traceback" not in text, text[-2500:]
    assert "half-written" not in text, "something half-written is left"
    beds.same(hashes(result / stage), expected)
    return Trial(seconds=time.monotonic() - start)


def unwritable(where: Bed, draw: Draw) -> Trial:
    kind = draw.of("read-only disk", "no permission", "no inodes", "an hour back", "a day on")
    checkout = where.copy(where.finished)
    runs, start = checkout / "runs/smoke", time.monotonic()
    expected = hashes(runs / "finetune")
    faults.remove(runs / "finetune", draw.source)
    command: tuple[str, ...] = (sys.executable, "-m", "flows.stages", "finetune", "smoke")
    env: dict[str, str] = {"VITFLOW_WORKERS": "0"}
    stack = contextlib.ExitStack()
    if kind in ("read-only disk", "no inodes"):
        if not faults.can_mount():
            raise NotRun("nobody may mount a small disk here")
        inodes = 5 + sum(1 for _ in runs.rglob("*"))  # for runs/, the stage's directories and one file
        options = "size=1G" if kind == "read-only disk" else f"size=1G,nr_inodes={inodes}"
        first = 'mount -o remount,ro "$place" && ' if kind == "read-only disk" else ""
        script = f'{first}"$@"; code=$?; {LEFT}; exit $code'
        command = tuple(faults.on_small_disk(runs, options, script, *command))
    elif kind == "no permission":
        command = (*stack.enter_context(faults.read_only(runs)), *command)
    else:
        shifted = faults.clock(where.root, -3600 if kind == "an hour back" else 86_400)
        if shifted is None:
            raise NotRun("no C compiler, with which the clock is moved")
        env |= shifted
    with stack, started(checkout, *command, **env) as stage:
        code, text = stage.end(), stage.text()
    if "LD_PRELOAD" in env:
        assert code == 0, text[-2000:]
        beds.same(hashes(runs / "finetune"), expected)
    else:
        assert code == 1 and "Traceback" not in text and str(runs) in text, f"{kind}: {code}: {text[-2500:]}"
        assert not (runs / "finetune").exists() and not beds.litter(checkout) and "half-written" not in text
    return Trial(seconds=time.monotonic() - start)


ROWS = [
    Row(
        number=11,
        fault="S3 with 10 % errors and 5 % resets, 2 s latency or a stalled read: the stage ends with the same bits in "
        "at most twice the time (a stall costs a minute); every answer an error: it stops within 5 min, naming "
        "endpoint and object",
        times=4,
        attempt=bad_day_of_s3,
    ),
    Row(
        number=12,
        fault="S3 sends a body cut short, wrong bytes of the right length, an old listing, or 403 in the middle: never "
        "accepted; repeated if that can help, else an error that names the object",
        times=5,
        attempt=wrong_answers_of_s3,
    ),
    Row(
        number=13,
        fault="SIGKILL in the middle of an upload in parts: no part of it is visible, the next try completes it, no "
        "parts are left",
        times=4,
        attempt=killed_upload,
        fewer="4 of 20: each takes ten seconds",
    ),
    Row(
        number=14,
        fault="the disk is full at 10 to 95 % of a stage's output (a small tmpfs): a sentence with the path, nothing "
        "half-written, the same bytes once there is room",
        times=5,
        attempt=full_disk,
        left_out="register, whose output is one small file and the registry",
    ),
    Row(
        number=15,
        fault="read-only disk, missing permission, no inodes: a sentence and nothing half-written; clock an hour back "
        "or a day on: the same bytes",
        times=5,
        attempt=unwritable,
    ),
]
