"""De-duplication beside pdqhash, imagehash and imagededup, how well and how fast: `make bench-dedup`.

Pictures that come with scikit-image, scikit-learn and matplotlib are cut into tiles; every other tile is a training
image, and the test set is 29 edited copies of each (vit.dedup.edits) among all the other tiles, so that most negative
pairs are neighbours in one picture. A fundus photograph (skimage.data.retina) is among them. Thresholds were fixed on
seeds 0, 1 and 6; grids, edits' strengths and places are drawn anew for every seed, and those shown here are others.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import dedup_quality, dedup_speed
from vit.dedup.tiers import FAST, THOROUGH

SEEDS = (2, 3, 4, 5, 7)  # over a million pairs
CORPORA = 14_000_000, 300_000_000  # ImageNet-21k and JFT-300M


def main(arguments: Sequence[str]) -> None:
    """Print Markdown tables; `--json` also writes the counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dedup", description=__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of more pictures; they should show different things")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", choices=("quality", "speed", "memory"))
    parser.add_argument("--rounds", type=int, default=dedup_speed.ROUNDS, help="of measuring speed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    written: dict[str, object] = {}
    if options.only in (None, "quality"):
        results = dedup_quality.measure((FAST, THOROUGH), options.seeds, options.photos)
        print(dedup_quality.table(results), end="\n\n")
        for quality in results[:2]:
            print(f"{quality.method}: {dedup_quality.by_edit(quality)}", end="\n\n")
            print(f"  false pairs in: {', '.join(quality.false_pictures) or 'none'}", end="\n\n")
        written["recall"] = {quality.method: quality.recall() for quality in results}
        written["false"] = {quality.method: quality.false for quality in results}
    if options.only in (None, "speed"):
        print("| what | against | times faster: median (middle half) | a second and core |\n|---|---|---|---|")
        speeds = dedup_speed.measure(options.rounds)
        for speed in speeds:
            print(f"| {speed.what} | {speed.against} | {speed.times} | {speed.rate:.0f} |")
        hours = (f"{speeds[2].core_hours(images):,.0f} for {images:,} images" for images in CORPORA)
        print(f"\nCore-hours of the {speeds[2].what}: {', '.join(hours)}")
        written["times"] = {speed.what: speed.times.median for speed in speeds}
    if options.only in (None, "memory"):
        print("\nMemory of a worker with 100,000 test images (python -m benchmarks.dedup_memory)", flush=True)
        subprocess.run([sys.executable, "-m", "benchmarks.dedup_memory"], check=True)
    if options.json:
        options.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
