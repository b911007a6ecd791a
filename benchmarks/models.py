"""Training steps and inference of our networks beside timm's and Hugging Face's same networks: `make bench-models`.

Like for like: same numerics, same precision, same compiler, same optimiser, turns within one process. On a CPU every
good implementation meets at the limit of the matrix products, so a ratio of 1 is the goal there; on a GPU the share of
a measured 8192³ product (MFU) is printed, too. The last rows compare the defaults of both sides: ours are fused AdamW,
the precision that the device is fast in (the header says which: bf16 autocast where it is hardware, as the paper's
pipelines have it) and torch.compile if VITFLOW_COMPILE=1; timm's script trains in fp32, eager, AdamW as torch makes it.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import Ratio, Step, in_turns, ratio
from vit.models.build import build
from vit.models.counting import forward_macs
from vit.models.variants import configure
from vit.training.flops import measured_peak
from vit.training.placement import is_on
from vit.training.precision import default_precision

# Name, timm's architecture, resolution, and what makes our numerics timm's.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT-Ti/16": ("vit_tiny_patch16_224", {"gelu": "erf"}),
    "ViT-S/16": ("vit_small_patch16_224", {"gelu": "erf"}),
    "ViT-B/16": ("vit_base_patch16_224", {"gelu": "erf"}),
    "ViT-L/16": ("vit_large_patch16_224", {"gelu": "erf"}),
    "R50x1": ("resnetv2_50x1_bit", {"standardize_eps": 1e-8}),
    "R26+ViT-S/32": (
        "vit_small_r26_s32_224",
        {"gelu": "erf", "standardize_eps": 1e-8, "standardize_eps_on": "variance"},
    ),
}
CLASSES = 1000
RESOLUTION = 224


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """How a contender runs."""

    train: bool
    autocast: bool  # bf16
    compiled: bool
    fused: bool  # AdamW in one kernel

    def __str__(self) -> str:
        return (
            f"{'train' if self.train else 'infer'}, {'bf16' if self.autocast else 'fp32'}, "
            f"{'compiled' if self.compiled else 'eager'}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the result."""

    network: str
    setting: str
    images_per_second: dict[str, float]
    against: dict[str, Ratio]  # ours against each peer
    mfu: float | None = None


def main(arguments: Sequence[str]) -> None:
    """Print a Markdown table; `--json` also writes it with every ratio's spread."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = measured_peak(device, "bfloat16") if device.type == "cuda" else None
    print(header(device, options), flush=True)
    rows: list[Row] = []
    for name in options.networks:
        for setting in settings(options):
            rows.append(
                compare(name, {"ours": setting, "timm": setting, "huggingface": setting}, options, device, peak)
            )
            print(line(rows[-1]), flush=True)
        rows.append(compare(name, defaults(device), options, device, peak, label="train, own defaults"))
        print(line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["ViT-Ti/16", "ViT-S/16", "R26+ViT-S/32"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=1, help="steps per turn")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU; more of them disturb each other")
    parser.add_argument("--eager-only", action="store_true", help="where there is no compiler")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def settings(options: argparse.Namespace) -> list[Setting]:
    compiled = (False,) if options.eager_only else (False, True)
    return [
        Setting(train=train, autocast=autocast, compiled=compile, fused=True)
        for train in (True, False)
        for autocast in (False, True)
        for compile in compiled
    ]


def defaults(device: torch.device) -> dict[str, Setting]:
    """How each side trains if nobody says otherwise."""
    bf16 = default_precision(device) == "bfloat16"
    return {
        "ours": Setting(train=True, autocast=bf16, compiled=is_on("COMPILE"), fused=True),
        "timm": Setting(train=True, autocast=False, compiled=False, fused=False),
    }


def compare(
    name: str,
    contenders: dict[str, Setting],
    options: argparse.Namespace,
    device: torch.device,
    peak: float | None,
    label: str | None = None,
) -> Row:
    """Time the contenders that have this network; ours must be among them."""
    makers: dict[str, Callable[[str], nn.Module | None]] = {"ours": ours, "timm": timms, "huggingface": huggingfaces}
    steps: dict[str, Step] = {}
    for contender, setting in contenders.items():
        torch.manual_seed(0)
        model = makers[contender](name)
        if model is not None:
            steps[contender] = step(model.to(device), setting, options.batch, device)
    seconds = in_turns(steps, rounds=options.rounds, repeats=options.repeats, device=device)
    torch.compiler.reset()
    speeds = {contender: options.batch / statistics.median(times) for contender, times in seconds.items()}
    flops = 2 * sum(forward_macs(configure(name, RESOLUTION), CLASSES).values())
    work = flops * (3 if contenders["ours"].train else 1)
    return Row(
        network=name,
        setting=label or str(contenders["ours"]),
        images_per_second=speeds,
        against={peer: ratio(times, seconds["ours"]) for peer, times in seconds.items() if peer != "ours"},
        mfu=None if peak is None else speeds["ours"] * work / peak,
    )


def step(model: nn.Module, setting: Setting, batch: int, device: torch.device) -> Step:
    """One update, or one forward pass, on fixed random data."""
    images = torch.randn(batch, 3, RESOLUTION, RESOLUTION, device=device)
    labels = torch.arange(batch, device=device) % CLASSES
    model.train(setting.train)
    network: Callable[[Tensor], Any] = torch.compile(model) if setting.compiled else model

    def logits() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=setting.autocast):
            found = network(images)
        return found if isinstance(found, Tensor) else found.logits

    if not setting.train:

        def infer() -> None:
            with torch.inference_mode():
                logits()

        return infer
    fused = {"fused": True} if setting.fused else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, **fused)

    def train() -> None:
        F.cross_entropy(logits().float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


def ours(name: str) -> nn.Module:
    _, numerics = NETWORKS[name]
    return build(configure(name, RESOLUTION, **numerics), CLASSES)


def timms(name: str) -> nn.Module:
    import timm

    architecture, _ = NETWORKS[name]
    return timm.create_model(architecture, num_classes=CLASSES)


def huggingfaces(name: str) -> nn.Module | None:
    """The same sizes in transformers, which has plain ViTs alone."""
    if not name.startswith("ViT-"):
        return None
    from transformers import ViTConfig, ViTForImageClassification

    sizes = configure(name, RESOLUTION)
    assert sizes.family == "vit"
    config = ViTConfig(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.num_heads,
        intermediate_size=sizes.mlp_dim,
        image_size=RESOLUTION,
        patch_size=sizes.patch_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **{"num_labels": CLASSES, "attn_implementation": "sdpa"},  # of the class above it, whose words it does not list
    )
    return ViTForImageClassification(config)


def header(device: torch.device, options: argparse.Namespace) -> str:
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {options.threads} thread(s)"
    about = f"{where}, torch {torch.__version__}, batch {options.batch}, {RESOLUTION} px, {options.rounds} rounds"
    about += f"; our defaults: {defaults(device)['ours']}, fused AdamW"
    titles = "| network | setting | ours, images/s | against timm | against Hugging Face | MFU |"
    return f"{about}\nmedian of ratios (middle half); above 1 ours is faster\n\n{titles}\n|---|---|---:|---:|---:|---:|"


def line(row: Row) -> str:
    peers = [str(row.against[peer]) if peer in row.against else "" for peer in ("timm", "huggingface")]
    mfu = "" if row.mfu is None else f"{row.mfu:.2f}"
    return f"| {row.network} | {row.setting} | {row.images_per_second['ours']:.2f} | {' | '.join(peers)} | {mfu} |"


if __name__ == "__main__":
    main(sys.argv[1:])
