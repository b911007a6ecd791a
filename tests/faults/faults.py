"""Faults, one sentence each. What is random about one comes from the generator that it is given."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.checkout import ROOT

INSIDE = Path("tests/faults/inside")  # of a checkout
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <sys/time.h>
static long shift(void) { const char *text = getenv("FAULT_CLOCK_SECONDS"); return text ? atol(text) : 0; }
int clock_gettime(clockid_t which, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int code = real(which, now);
  if (!code && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
  return code;
}
time_t time(time_t *out) {
  struct timespec now; clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
int gettimeofday(struct timeval *out, void *zone) {
  struct timespec now; clock_gettime(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec; out->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""


def kill(process: psutil.Process) -> None:
    """End a process at once, without a word to it, as the kernel does when memory is short or a machine is lost."""
    process.send_signal(signal.SIGKILL)


def hang(process: psutil.Process) -> None:
    """Stop a process where it is: it lives, holds its sockets open, and answers nothing."""
    process.send_signal(signal.SIGSTOP)


def flip_bit(path: Path, source: random.Random, start: int = 0) -> None:
    """Turn over one bit of a file, at `start` or later."""
    data = bytearray(path.read_bytes())
    data[source.randrange(start, len(data))] ^= 1 << source.randrange(8)
    rewrite(path, bytes(data))


def truncate(path: Path, source: random.Random) -> None:
    """Cut a file off somewhere."""
    rewrite(path, path.read_bytes()[: source.randrange(1, path.stat().st_size)])


def empty(path: Path, source: random.Random) -> None:
    """Leave a file of no bytes, as a machine that loses its power does to what was not synced."""
    rewrite(path, b"")


def remove(path: Path, source: random.Random) -> None:
    """Delete a file or a directory."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def rewrite(path: Path, data: bytes) -> None:
    """Other bytes at a path, whether or not DVC made it read-only or a link into its cache."""
    path.unlink()
    path.write_bytes(data)


def inside(checkout: Path, who: str, how: str, *arguments: Any) -> dict[str, str]:
    """The environment in which every Python process with `who` on its command line does this to itself (dying.py)."""
    asked = json.dumps({"who": who, "how": how, "arguments": arguments})
    return {"PYTHONPATH": f"{checkout / INSIDE}:{checkout}", "VITFLOW_TEST_FAULT": asked}


def in_child(work: Callable[[], object]) -> int:
    """Do work in a forked process that may die of it; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with contextlib.redirect_stderr(None):
                work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def cut_ray_snapshot(directory: Path) -> None:
    """Ray's index of checkpoints as a crash leaves it: the first half of a file that is overwritten in place."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "checkpoint_manager_snapshot.json").write_text('{"checkpoint_results": [{"checkpoint_dir_na')


def clock(directory: Path, seconds: int) -> dict[str, str] | None:
    """The environment in which it is so much later (or earlier); None where nothing can compile the 20 lines of C."""
    library = directory / "clock.so"
    if not library.exists():
        compiler = shutil.which("cc")
        command = [compiler or "", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
        if compiler is None or subprocess.run(command, input=CLOCK.encode(), capture_output=True).returncode:
            return None
    return {"LD_PRELOAD": str(library), "FAULT_CLOCK_SECONDS": str(seconds)}


def can_mount() -> bool:
    """Whether this user may mount small disks, in a namespace of their own."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


def on_small_disk(place: Path, options: str, script: str, *arguments: str) -> list[str]:
    """A shell script in a namespace where `place` is a disk in memory, mounted with `options`, with the same files.

    In it, `$@` are the arguments and `$place` is the place; `mount -o remount,size=… $place` makes room.
    """
    copied = 'cp -a "$place/." "$disk/" && mount --move "$disk" "$place"'
    mounted = f'disk=$(mktemp -d) && mount -t tmpfs -o "{options}" none "$disk" && {copied}'
    return ["unshare", "-rm", "sh", "-c", f"place={place} && {mounted} && {script}", "sh", *arguments]


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[list[str]]:
    """A directory that nobody may write to; what to put before a command so that this holds for root, too."""
    mode = directory.stat().st_mode
    directory.chmod(0o555)
    capabilities = "-dac_override,-dac_read_search"
    try:
        yield ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"] if os.getuid() == 0 else []
    finally:
        directory.chmod(mode)


def dvc_object(checkout: Path, where: Path, path: Path) -> Path:
    """The file in DVC's cache, or in a remote at `where`, that holds a file of the workspace."""
    import hashlib

    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return where / "files" / "md5" / md5[:2] / md5[2:]


assert (ROOT / INSIDE).is_dir()
