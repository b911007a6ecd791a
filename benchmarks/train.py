"""Our training loop beside bare PyTorch, timm in a plain loop and Hugging Face's Trainer: `make bench-train`.

The same network sizes, batch and data in memory, in one process, in turns. Every contender makes its optimiser and does
`--steps` updates a turn. Needs torch and this repository's `vit` alone; peers that are not installed are left out.
With a GPU the share of a measured 8192³ product (MFU) of B/16, L/16 and H/14 is printed, timm compiled taking its turns
beside them, and how speed grows over the GPUs present.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
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
GPU_BATCHES = {"ViT-B/16": 1024, "ViT-L/16": 384, "ViT-H/14": 192}  # ours take 68, 69 and 82 GB
GPU_STEPS = 10  # updates a turn there
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
        on_gpus(options.rounds)


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


def bare(model: nn.Module, data: Data, steps: int, *, fused: bool, precision: str = "float32") -> None:
    """What nobody can leave out."""
    images, labels = data
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, **({"fused": True} if fused else {}))
    for _ in range(steps):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
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

    pixels, labels = (part.cpu() for part in data)  # Trainer brings batches to the device itself

    class Repeated(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return len(data[0]) * steps

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"pixels": pixels[index % len(pixels)], "labels": labels[index % len(pixels)]}

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


def on_gpus(rounds: int) -> None:
    """MFU of one GPU beside timm compiled, then images/s of 1, 2, 4, … in data parallel as a share of as many alone."""
    print(f"\nbf16, compiled, 224 px, {GPU_STEPS} updates a turn, {rounds} rounds; MFU: of the 8192³ product before\n")
    print("| network | GPUs | batch | peak TFLOP/s | images/s | MFU | efficiency | timm images/s | its time to ours |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, batch in GPU_BATCHES.items():
        flops, single = training_flops(build(configure(name, 224), CLASSES)), 0.0
        assert flops is not None
        for count in counts(torch.cuda.device_count()):
            answers = torch.multiprocessing.get_context("spawn").SimpleQueue()
            torch.multiprocessing.spawn(one_gpu, (count, name, batch, rounds, answers), nprocs=count)
            peak, seconds = answers.get()
            speeds = {who: GPU_STEPS * batch * count / statistics.median(times) for who, times in seconds.items()}
            single = single or speeds["ours"]
            cells = [name, str(count), str(batch), f"{peak / 1e12:.0f}", f"{speeds['ours']:.0f}"]
            cells += [f"{speeds['ours'] * flops / count / peak:.3f}", f"{speeds['ours'] / single / count:.2f}"]
            cells += [f"{speeds['timm']:.0f}", str(ratio(seconds["timm"], seconds["ours"]))] if len(seconds) > 1 else []
            print(f"| {' | '.join(cells)} |", flush=True)


def counts(most: int) -> Iterator[int]:
    yield from itertools.takewhile(lambda count: count <= most, (2**power for power in itertools.count()))


def one_gpu(rank: int, count: int, name: str, batch: int, rounds: int, answers: Any) -> None:
    """A process of its own for each GPU; the first one tells the measured peak, and the seconds of all together."""
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="29511", RANK=str(rank), WORLD_SIZE=str(count))
    os.environ["VITFLOW_COMPILE"] = "1"
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl")
    device = torch.device("cuda", rank)
    images = torch.randn(batch, 3, 224, 224, device=device)
    data = images, torch.arange(batch, device=device) % CLASSES
    model = place(build(configure(name, 224), CLASSES).to(device), settings(1, batch, "bfloat16"))
    turns: dict[str, Callable[[], None]] = {"ours": lambda: our_loop(model, data, GPU_STEPS, "bfloat16")}
    if count == 1:
        with contextlib.suppress(ImportError, RuntimeError):
            import timm

            peer = torch.compile(timm.create_model(TIMM[name], num_classes=CLASSES).to(device))
            turns["timm"] = lambda: bare(peer, data, GPU_STEPS, fused=True, precision="bfloat16")
    peak = measured_peak(device, "bfloat16")
    seconds = in_turns(turns, rounds=rounds, repeats=1, device=device)
    if rank == 0:
        answers.put((peak, seconds))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
