"""Row 25: a DVC remote that lost something, or is not there."""

import time
from pathlib import Path

from tests.checkout import hashes, run
from tests.faults import bed as beds
from tests.faults import faults
from tests.faults.bed import FLOW, Bed, started
from tests.faults.row import Draw, Row, Trial
from tests.s3 import stores


def remote_of_dvc(where: Bed, draw: Draw) -> Trial:
    """A remote on a disk or in S3, set up as `vitflow doctor` asks for it."""
    place, kind = draw.of("disk", "S3"), ("corrupted", "missing", "down")[draw.number % 3]
    checkout = where.copy(where.checkout)
    remote, env = where.root / f"remote-{draw.number}", dict[str, str]()
    url = str(remote)
    if place == "S3":
        url = f"s3://{where.swift.make_bucket(f'dvc-{draw.number}')}/remote"
        env = stores.environment(where.swift.url, where.swift.access_key, where.swift.secret_key)
    dvc(checkout, "remote", "add", "-d", "there", url)
    if place == "S3":
        dvc(checkout, "remote", "modify", "there", "endpointurl", where.swift.url)
    dvc(checkout, "remote", "modify", "there", "verify", "true")
    dvc(checkout, "push", "prepare@smoke", **env)
    out = checkout / "runs/smoke/prepare"
    expected = hashes(out)
    victim = max((path for path in out.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    there = faults.dvc_object(checkout, remote, victim)
    spoil(where, draw, there, url, kind, checkout)
    faults.remove(out, draw.source)
    faults.remove(checkout / ".dvc/cache", draw.source)
    start = time.monotonic()
    done = run(checkout, "dvc", "pull", "prepare@smoke", **env)
    assert done.returncode != 0, f"{place}, {kind}: dvc pull was content"
    wrong = [path for path, found in (hashes(out) if out.exists() else {}).items() if expected.get(path) != found]
    assert not wrong, wrong
    named = ("runs/smoke/prepare", there.parent.name + there.name)  # the output, or the object
    assert kind == "down" or any(name in done.stderr for name in named), done.stderr
    # Our own door verifies by itself; what cannot be had is made again.
    dvc(checkout, "remote", "modify", "--unset", "there", "verify")
    with started(checkout, *FLOW, VITFLOW_WORKERS="0", **where.prefect, **env) as flow:
        flow.wait(lambda: (checkout / "runs/smoke/prepare/config.json").is_file() and "deduplicate" in flow.text())
    beds.same(hashes(out), expected)
    return Trial(seconds=time.monotonic() - start)


def dvc(checkout: Path, *arguments: str, **env: str) -> None:
    done = run(checkout, "dvc", *arguments, **env)
    assert done.returncode == 0, done.stdout + done.stderr


def spoil(where: Bed, draw: Draw, there: Path, url: str, kind: str, checkout: Path) -> None:
    """An object of a remote, or all of it."""
    if not url.startswith("s3://"):
        remote = Path(url)
        {
            "corrupted": lambda: faults.flip_bit(there, draw.source),
            "missing": lambda: faults.remove(there, draw.source),
            "down": lambda: faults.remove(remote, draw.source),
        }[kind]()
        return
    bucket, client = url.split("/")[2], where.swift.client()
    key = "remote/" + "/".join(there.parts[-4:])
    if kind == "corrupted":
        data = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
        data[draw.source.randrange(len(data))] ^= 1
        client.put_object(Bucket=bucket, Key=key, Body=bytes(data))
    elif kind == "missing":
        client.delete_object(Bucket=bucket, Key=key)
    else:
        dvc(checkout, "remote", "modify", "there", "endpointurl", "http://127.0.0.1:9")


ROWS = [
    Row(
        number=25,
        fault="an object of a DVC remote (disk, S3) is corrupted or missing, or the remote is down: `dvc pull` fails "
        "and names the output, nothing wrong reaches the workspace, the flow makes the data again",
        times=3,
        attempt=remote_of_dvc,
        fewer="3 of the 6 pairs of a place and a damage: for time",
        left_out="the name of the file: DVC's own `dvc pull` names the output that the file is in, or the object",
    ),
]
