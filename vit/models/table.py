"""The tables of docs/models.md: every network with its counts. `python -m vit.models.table docs/models.md` renews them.

The prose of that page is written by hand; what stands between the two marks comes from here.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from vit.models.build import ModelConfig
from vit.models.counting import JFT_IMAGES, activations, exaflops, forward_macs, parameters
from vit.models.resnet import ResNetConfig
from vit.models.variants import HYBRIDS, RESNETS, SIZES, configure
from vit.models.vit import ViTConfig

BEGIN, END = "<!-- generated: python -m vit.models.table docs/models.md -->", "<!-- end of generated -->"
RESOLUTION = 224
VITS = [f"ViT-{size}/{patch}" for size in SIZES if size != "H" for patch in (32, 16)] + ["ViT-H/14"]
MEASURED = ("ViT-S/16", "ViT-B/16", "ViT-L/16", "ViT-H/14", "R50x1", "R50+ViT-B/16")
TABLE_6 = (  # network, epochs of JFT-300M, exaFLOPs of the paper
    ("ViT-B/32", 7, 55),
    ("ViT-B/16", 7, 224),
    ("ViT-L/32", 7, 196),
    ("ViT-L/16", 7, 783),
    ("ViT-L/16", 14, 1567),
    ("ViT-H/14", 14, 4262),
    ("R50x1", 7, 50),
    ("R50x2", 7, 199),
    ("R101x1", 7, 96),
    ("R152x1", 7, 141),
    ("R152x2", 7, 563),
    ("R152x2", 14, 1126),
    ("R200x3", 14, 3306),
    ("R50+ViT-B/32", 7, 106),
    ("R50+ViT-B/16", 7, 274),
    ("R50+ViT-L/32", 7, 246),
    ("R50+ViT-L/16", 7, 859),
    ("R50+ViT-L/16", 14, 1668),
)


def render() -> str:
    """Markdown: sizes and counts of all networks at 224 px, memory of some, Table 6 of the paper beside ours."""
    parts = [BEGIN, "", "### Transformers and hybrids", "", *_transformers()]
    parts += ["", "### ResNets", "", *_resnets()]
    parts += ["", "### Activations kept for the backward pass, MB an image + MB a step", "", *_memory()]
    parts += ["", "### exaFLOPs of Table 6", "", *_table_6(), "", END]
    return "\n".join(parts)


def renewed(page: str) -> str:
    """The page with its generated part made anew. Raises ValueError if a mark is missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks a mark; it needs the lines {BEGIN!r} and {END!r}")
    return before + render() + after


def _transformers() -> Iterable[str]:
    titles = ("network", "width", "depth", "heads", "MLP", "tokens", "backbone", "with 1,000 classes")
    yield from _head((*titles, "with representation and 21,843 classes", "GMACs"))
    for name in [*VITS, *HYBRIDS]:
        config, trained = configure(name, RESOLUTION), configure(name, RESOLUTION, representation=True)
        assert isinstance(config, ViTConfig)
        shape = (config.width, config.depth, config.num_heads, config.mlp_dim, config.num_tokens)
        counts = (_count(config, 0), _count(config, 1000), _count(trained, 21843))
        yield _row(name, *(f"{number:,}" for number in shape + counts), _gmacs(config))


def _resnets() -> Iterable[str]:
    yield from _head(
        ("network", "units", "width factor", "v2 backbone", "v1 backbone", "v2 with 1,000 classes", "GMACs")
    )
    for name in RESNETS:
        config, first = configure(name, RESOLUTION), configure(name, RESOLUTION, flavour="v1")
        assert isinstance(config, ResNetConfig)
        counts = (_count(config, 0), _count(first, 0), _count(config, 1000))
        units = "+".join(map(str, config.layers))
        yield _row(name, units, str(config.width_factor), *(f"{number:,}" for number in counts), _gmacs(config))


def _memory() -> Iterable[str]:
    yield from _head(("network", "float32", "bfloat16 autocast", "the same, checkpointed"))
    for name in MEASURED:
        config = configure(name, RESOLUTION)
        kinds = ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True))
        kept = [activations(config, 1000, dtype=dtype, grad_checkpointing=again) for dtype, again in kinds]
        yield _row(name, *(f"{each.per_image / 1e6:.1f} + {each.per_step / 1e6:.1f}" for each in kept))


def _table_6() -> Iterable[str]:
    yield from _head(("network", "epochs of JFT-300M", "paper", "here", "here / paper"))
    for name, epochs, paper in TABLE_6:
        ours = exaflops(configure(name, RESOLUTION), epochs * JFT_IMAGES)
        yield _row(name, str(epochs), f"{paper:,}", f"{ours:,.1f}", f"{ours / paper:.3f}")


def _count(config: ModelConfig, num_classes: int) -> int:
    return sum(parameters(config, num_classes).values())


def _gmacs(config: ModelConfig) -> str:
    return f"{sum(forward_macs(config, 1000).values()) / 1e9:.2f}"


def _head(titles: Sequence[str]) -> tuple[str, str]:
    return _row(*titles), "|---|" + "---:|" * (len(titles) - 1)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(renewed(page.read_text()))
