"""How fast a pipeline's pre-training would run on this machine, where its time goes, and which switches would help.

Nothing is trained for good: networks are built afresh, and what they learn is thrown away.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from flows.stages import output
from flows.stages.pretrain import PretrainConfig, network
from flows.stages.run import Run
from flows.stages.training import corpus
from vit.data.shards import Shards, png_example, write
from vit.training.distributed import device, from_rank_0, world_size
from vit.training.fit import FitConfig
from vit.training.flops import measured_peak
from vit.training.placement import compiles
from vit.training.precision import default_precision
from vit.training.profile import Profile, batches, profile, resident

NOISE = 512  # images of a stand-in corpus
EACH = 2.0  # seconds that a setting is trained
WORTH = 1.05  # times as fast, to be suggested
COMPILING = 0.5  # of the time must be left for it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What may be tried: parameters of the result, and switches of the environment."""

    batch_size: int
    precision: str
    env: dict[str, str] = dataclasses.field(default_factory=dict[str, str])

    def difference(self, plain: "Setting") -> str:
        """How to ask for it instead of `plain`."""
        words = [f"{name}={value}" for name, value in self.env.items()]
        for name in ("batch_size", "precision"):
            if getattr(self, name) != getattr(plain, name):
                words.append(f"--set pretrain.train.{name}={getattr(self, name)}")
        return " ".join(words) or "as it is"


def bench(run: Run, *, seconds: float) -> dict[str, Any]:
    """Everything that is measured, ready for JSON, in about so many seconds. Call it on every rank."""
    config, begun = run.config.pretrain, time.monotonic()
    plain = Setting(batch_size=config.train.batch_size, precision=config.train.precision)
    with shards(run) as (images, what):
        loaded = measure(config, plain, images, whole=True)
        memory = measure(config, plain, images)
        tried = [{"setting": plain.difference(plain), "images_per_second": memory.images_per_second}]
        for setting in settings(plain, config.train.steps):
            left = seconds - (time.monotonic() - begun)
            if from_rank_0(left < (seconds * COMPILING if "VITFLOW_COMPILE" in setting.env else EACH)):
                continue
            with contextlib.suppress(ValueError):  # a batch that cannot be shared
                speed = measure(config, setting, images).images_per_second
                tried.append({"setting": setting.difference(plain), "images_per_second": speed})
    where = torch.cuda.get_device_name() if device().type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {
        "pipeline": run.pipeline,
        "corpus": what,
        "devices": world_size(),
        "device": where,
        "peak_flops": measured_peak(device(), config.train.precision),
        "plain": dataclasses.asdict(plain),
        "in_memory": dataclasses.asdict(memory),
        "with_loader": dataclasses.asdict(loaded),
        "tried": tried,
        "suggestions": suggestions(tried),
    }


def settings(plain: Setting, steps: int) -> Iterator[Setting]:
    """What is tried beside the pipeline's own, a training of so many steps, the most useful first."""
    if (fast := default_precision(device())) != plain.precision:
        yield dataclasses.replace(plain, precision=fast)
    yield dataclasses.replace(plain, batch_size=2 * plain.batch_size)
    yield dataclasses.replace(plain, env={"VITFLOW_COMPILE": "0" if compiles(steps) else "1"})
    for parts in (2, 4):
        share = plain.batch_size // world_size() // parts
        if share:
            yield dataclasses.replace(plain, env={"VITFLOW_MICRO_BATCH": str(share)})


def suggestions(tried: list[dict[str, Any]]) -> list[str]:
    """Sentences about what is clearly faster than the first, best first."""
    speed = tried[0]["images_per_second"]
    better = sorted(tried[1:], key=lambda one: -one["images_per_second"])
    found: list[str] = []
    for one in better:
        ratio = one["images_per_second"] / speed
        if ratio >= WORTH:
            changes = ": it makes another model" if "--set" in one["setting"] else ""
            found.append(f"{one['setting']} is {ratio:.2f} times as fast{changes}")
    return found or ["nothing that was tried is clearly faster than the pipeline as it is"]


def measure(config: PretrainConfig, setting: Setting, images: Shards, *, whole: bool = False) -> Profile:
    """Train a fresh network for a moment; `whole`: with the real loader, else on a batch that is there already."""
    train = dataclasses.replace(config.train, batch_size=setting.batch_size, precision=setting.precision)
    fitting = FitConfig(resolution=config.model.resolution, train=train, augment=config.augment)
    with switched(setting.env):
        model = network(config, len(images.class_names))
        source = batches(images, model.to(device()), fitting)
        try:
            return profile(model, source if whole else resident(source), train, seconds=EACH)
        finally:
            source.close()


@contextlib.contextmanager
def shards(run: Run) -> Iterator[tuple[Shards, str]]:
    """The training images of the pipeline if they have been prepared, else noise, and what they are in words."""
    prepared = run.root / "runs" / run.pipeline
    if output.is_complete(prepared / "prepare") and output.is_complete(prepared / "deduplicate"):
        yield corpus(prepared / "prepare", prepared / "deduplicate", "train"), "the pipeline's own"
        return
    side = run.config.pretrain.model.resolution
    noise = torch.randint(0, 256, (NOISE, side, side, 3), dtype=torch.uint8).numpy()
    examples = [png_example(f"noise-{i}", "train", i % 10, noise[i]) for i in range(NOISE)]
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory) / "noise", examples, name="noise", class_names=[str(digit) for digit in range(10)])
        yield Shards(Path(directory) / "noise"), f"{NOISE} pictures of noise: {run.pipeline} has not been prepared"


@contextlib.contextmanager
def switched(env: dict[str, str]) -> Iterator[None]:
    """These environment variables inside the block."""
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def show(found: dict[str, Any], print_table: Callable[[Any], None]) -> None:
    """Two tables and the suggestions."""
    from rich.table import Table

    memory, loaded = found["in_memory"], found["with_loader"]
    parts = Table(title=f"an update of {found['pipeline']} on {found['devices']} x {found['device']}")
    for name in ("", "data in memory", "with the loader"):
        parts.add_column(name, justify="right" if name else "left")
    for part in memory["parts"]:
        parts.add_row(part, *(_share(one["parts"][part], sum(one["parts"].values())) for one in (memory, loaded)))
    if memory["communication"] is not None:
        parts.add_row("of it communication", *(f"{one['communication'] * 1e3:.1f} ms" for one in (memory, loaded)))
    parts.add_row("whole update", *(f"{one['update'] * 1e3:.1f} ms" for one in (memory, loaded)))
    parts.add_row("images/s", *(f"{one['images_per_second']:,.0f}" for one in (memory, loaded)))
    if memory["mfu"] is not None:
        parts.add_row("MFU", *(f"{one['mfu']:.1%}" for one in (memory, loaded)))
    print_table(parts)
    tried = Table(title="what was tried, data in memory")
    for name in ("setting", "images/s"):
        tried.add_column(name, justify="right" if name == "images/s" else "left")
    for one in found["tried"]:
        tried.add_row(one["setting"], f"{one['images_per_second']:,.0f}")
    print_table(tried)
    print_table(f"corpus: {found['corpus']}; measured peak {found['peak_flops'] / 1e9:,.0f} GFLOP/s a device")
    print_table("\n".join(found["suggestions"]))


def dumped(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2, sort_keys=True)


def _share(seconds: float, total: float) -> str:
    return f"{seconds * 1e3:.1f} ms, {seconds / total:.0%}"
