"""Takes protections out, one at a time, and sees whether the row that is about each fails: `vitflow faults mutate`.

Works on copies: of the code, and of what pipelines made with the code as it is. For each row the trial is first run as
it is, and must be survived.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from tests.checkout import ROOT, environment, make_checkout
from tests.faults import lanes
from tests.faults.mutations import MUTATIONS, Mutation

RESULTS = ROOT / "test-results" / "mutations.json"
SECONDS = 900  # for one trial
console = Console()


class Ground:
    """A copy of the code, and of the checkouts that rows work in, put back after each mutation."""

    def __init__(self, root: Path) -> None:
        self.code, self.bed, self.kept = root / "code", root / "bed", root / "kept"
        make_checkout(self.code)
        self.kept.mkdir()
        root.chmod(0o711)  # PostgreSQL, where it is not ours, has to come through

    def survives(self, row: int, trial: int) -> tuple[bool, str]:
        """Whether a trial of a row is survived, and what was said if it is not."""
        results = self.code / "result.json"
        results.unlink(missing_ok=True)
        command = ["run", str(row), "--trial", str(trial), "--bed", str(self.bed), "--out", str(results)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults", *command],
            cwd=self.code,
            env=environment(self.code),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert results.is_file(), done.stdout + done.stderr
        (result,) = json.loads(results.read_text())
        return bool(result["survived"]), " ".join([*result["failures"], result["not_run"]])

    @contextlib.contextmanager
    def mutated(self, mutation: Mutation) -> Iterator[None]:
        """Everywhere: where rows import from, and where pipelines run."""
        plain = (self.code / mutation.path).read_text()
        self.keep()
        for place in (self.code, *(path.parent for path in self.bed.glob("*/pipelines.yaml"))):
            (place / mutation.path).write_text(mutation.applied(plain))
        try:
            yield
        finally:
            (self.code / mutation.path).write_text(plain)
            self.put_back()

    def keep(self) -> None:
        """What the bed has, so that later rows find it as it is."""
        shutil.rmtree(self.kept)
        shutil.copytree(self.bed, self.kept, symlinks=True)

    def put_back(self) -> None:
        shutil.rmtree(self.bed, ignore_errors=True)
        shutil.copytree(self.kept, self.bed, symlinks=True)


def mutate(rows: Sequence[int]) -> int:
    """Exit code 1 if one of these rows is survived without its protection, or not with it."""
    chosen = [one for one in MUTATIONS if one.row in rows]
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="m-", dir="/tmp", ignore_cleanup_errors=True) as root:
        ground = Ground(Path(root))
        ground.bed.mkdir()
        for mutation in chosen:
            found.append(tried(ground, mutation))
            console.print(f"row {mutation.row} without {mutation.without}: {found[-1]['outcome']}", markup=False)
            write(found)
    return int(any(one["outcome"] != "fails" for one in found))


def tried(ground: Ground, mutation: Mutation) -> dict[str, object]:
    """What came of a mutation."""
    about: dict[str, object] = {"row": mutation.row, "without": mutation.without, "path": mutation.path}
    whole, why = ground.survives(mutation.row, mutation.trial)
    if not whole:
        return about | {"outcome": "fails with it, too", "why": why[:500]}
    with ground.mutated(mutation):
        survived, why = ground.survives(mutation.row, mutation.trial)
    return about | {"outcome": "is survived" if survived else "fails", "why": why[:500]}


def write(found: list[dict[str, object]]) -> None:
    """In place of what was known of the same protections."""
    with lanes.alone_with(RESULTS):
        known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
        names = {(one["row"], one["without"]) for one in found}
        kept = [one for one in known if (one["row"], one["without"]) not in names]
        RESULTS.write_text(json.dumps(sorted([*kept, *found], key=lambda one: int(one["row"])), indent=1) + "\n")
