"""Our training loop beside bare PyTorch, timm in a plain loop and Hugging Face's Trainer: `make bench-train`.

The same network sizes, batch and data in memory, in one process, in turns. Every contender makes its optimiser and does
`--steps` updates a turn. Needs torch and this repository's `vit` alone; peers that are not installed are left out.
With a GPU the share of a measured 8192³ product (MFU) of B/16, L/16 and H/14 is printed, and how speed grows over the
GPUs present.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import in_turns, ratio
from vit.models.build import build
from vit.models.variants import configure
from vit.training.config import TrainConfig
from vit.training.distributed import world_size
from vit.training.flops import measured_peak, training_flops
from vit.training.loop import train
from vit.training.placement import place

TIMM = {
    "ViT-Ti/16": "vit_tiny_patch16_224",
    "ViT-S/16": "vit_small_patch16_224",
    "ViT-B/16": "vit_base_patch16_224",
    "ViT-L/16": "vit_large_patch16_224",
    "ViT-H/14": "vit_huge_patch14_224",
}
GPU_BATCHES = {"ViT-B/16": 512, "ViT-L/16": 192, "ViT-H/14": 64}
CLASSES = 1000
Data = tuple[Tensor, Tensor]


def main(arguments: Sequence[str]) -> None:
    """Print two Markdown tables."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {options.threads} thread(s)"
    print(f"{where}, torch {torch.__version__}, {options.network} at {options.resolution} px, batch {options.batch}, ")
    print(f"{options.steps} updates a turn, {options.rounds} rounds; medians of ratios (middle half)\n")
    beside_peers(options, device)
    if device.type == "cuda":
        on_gpus(options, device)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--network", choices=TIMM, default="ViT-Ti/16")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def beside_peers(options: argparse.Namespace, device: torch.device) -> None:
    images = torch.randn(options.batch, 3, options.resolution, options.resolution, device=device)
    data = images, torch.arange(options.batch, device=device) % CLASSES
    ours = build(configure(options.network, options.resolution, gelu="erf"), CLASSES).to(device)
    turns: dict[str, Callable[[], None]] = {
        "our loop": lambda: our_loop(ours, data, options.steps, "float32"),
        "our network, bare step": lambda: bare(ours, data, options.steps, fused=True),
        "our loop, bf16": lambda: our_loop(ours, data, options.steps, "bfloat16"),
    }
    with contextlib.suppress(ImportError, RuntimeError):  # a torchvision of another torch takes timm down
        import timm

        peer = timm.create_model(TIMM[options.network], num_classes=CLASSES, img_size=options.resolution).to(device)
        turns["timm, plain loop"] = lambda: bare(peer, data, options.steps, fused=True)
        turns["timm, plain loop, AdamW as torch makes it"] = lambda: bare(peer, data, options.steps, fused=False)
    with contextlib.suppress(ImportError), tempfile.TemporaryDirectory() as directory:
        turns["our network, Hugging Face Trainer"] = trainer(ours, data, options.steps, directory)
    seconds = in_turns(turns, rounds=options.rounds, repeats=1, device=device)
    print("| contender | images/s | time against our loop | against our loop in bf16 |\n|---|---:|---:|---:|")
    for name, times in seconds.items():
        speed = options.batch * options.steps / statistics.median(times)
        columns = [str(ratio(times, seconds[mine])) for mine in ("our loop", "our loop, bf16")]
        print(f"| {name} | {speed:.2f} | {' | '.join(columns)} |")
    overhead = ratio(seconds["our loop"], seconds["our network, bare step"])
    print(f"\nour loop takes {overhead} times a bare forward, backward, clip and optimiser")


def settings(steps: int, batch: int, precision: str) -> TrainConfig:
    """The paper's pre-training, logging once."""
    values: dict[str, Any] = {"seed": 0, "steps": steps, "batch_size": batch, "precision": precision}
    values |= {"optimizer": "adamw", "betas": (0.9, 0.999), "eps": 1e-8, "momentum": 0.9, "weight_decay": 0.1}
    values |= {"loss": "softmax", "label_smoothing": 0.0, "learning_rate": 1e-4, "decay": "cosine", "timescale": 1}
    values |= {"warmup_steps": 0, "cooldown_steps": 0, "decay_on": "all", "grad_clip_norm": 1.0, "average": 0.0}
    values |= {"stochastic_depth": 0.0, "validate_every": 0, "patience": 0, "spike_factor": 0.0, "rewinds": 0}
    return TrainConfig(**values, log_every=steps, save_every=steps)


def our_loop(model: nn.Module, data: Data, steps: int, precision: str, log: Any = None) -> None:
    """`train`, with nobody listening."""
    config = settings(steps, len(data[0]) * world_size(), precision)
    say = log or (lambda step, metrics: None)
    train(model, lambda _: itertools.repeat(data), config, state=None, log=say, save=lambda _: None)


def bare(model: nn.Module, data: Data, steps: int, *, fused: bool) -> None:
    """What nobody can leave out."""
    images, labels = data
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, **({"fused": True} if fused else {}))
    for _ in range(steps):
        F.cross_entropy(model(images), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def trainer(model: nn.Module, data: Data, steps: int, directory: str) -> Callable[[], None]:
    """Raises ImportError if transformers or accelerate is missing."""
    import accelerate  # noqa: F401
    from transformers import Trainer, TrainingArguments

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.network(pixels)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    class Repeated(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return len(data[0]) * steps

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"pixels": data[0][index % len(data[0])], "labels": data[1][index % len(data[0])]}

    arguments = TrainingArguments(
        output_dir=directory,
        per_device_train_batch_size=len(data[0]),
        max_steps=steps,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        weight_decay=0.1,
    )
    return lambda: (Trainer(model=Classifier(), args=arguments, train_dataset=Repeated()).train(), None)[1]


def on_gpus(options: argparse.Namespace, device: torch.device) -> None:
    """MFU of one GPU, then images/s of 1, 2, 4, … in data parallel as a share of as many single ones."""
    peak = measured_peak(device, "bfloat16")
    print(f"\nmeasured 8192³ product: {peak / 1e12:.0f} TFLOP/s\n\n| network | GPUs | images/s | MFU | efficiency |")
    print("|---|---:|---:|---:|---:|")
    for name, batch in GPU_BATCHES.items():
        single = 0.0
        for count in counts(torch.cuda.device_count()):
            speeds = torch.multiprocessing.get_context("spawn").SimpleQueue()
            torch.multiprocessing.spawn(one_gpu, (count, name, batch, options.rounds, speeds), nprocs=count)
            speed = speeds.get()
            single = single or speed
            flops = training_flops(build(configure(name, 224), CLASSES))
            assert flops is not None
            share = speed * flops / count / peak
            print(f"| {name} | {count} | {speed:.0f} | {share:.2f} | {speed / single / count:.2f} |", flush=True)


def counts(most: int) -> Iterator[int]:
    yield from itertools.takewhile(lambda count: count <= most, (2**power for power in itertools.count()))


def one_gpu(rank: int, count: int, name: str, batch: int, rounds: int, speeds: Any) -> None:
    """A process of its own for each GPU; the first one tells the speed of all together."""
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="29511", RANK=str(rank), WORLD_SIZE=str(count))
    os.environ["VITFLOW_COMPILE"] = "1"
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl")
    device = torch.device("cuda", rank)
    images = torch.randn(batch, 3, 224, 224, device=device)
    data = images, torch.arange(batch, device=device) % CLASSES
    model = place(build(configure(name, 224), CLASSES).to(device), settings(1, batch, "bfloat16"))
    our_loop(model, data, 5, "bfloat16")  # compile
    found: list[float] = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        our_loop(model, data, 20, "bfloat16")
        torch.cuda.synchronize()
        found.append(20 * batch * count / (time.perf_counter() - start))
    if rank == 0:
        speeds.put(statistics.median(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
