"""What the paper reports for the rows that pipelines.yaml reproduces, by pipeline, and under which name we measure it.

Sources: arXiv 2010.11929v2, Tables 2 and 5 to 9; upstream accuracies: vision_transformer issue 62.
"""

import dataclasses
from collections.abc import Iterator

# The columns of Tables 5 and 6.
BENCHMARKS = ("ImageNet", "ImageNet ReaL", "CIFAR-10", "CIFAR-100", "Oxford-IIIT Pets", "Oxford Flowers-102")
IMAGENET = "finetune/val/top1"  # where the network was fine-tuned on ImageNet
MEASURED = {
    "ImageNet": IMAGENET,
    "ImageNet ReaL": "benchmark/imagenet-real",
    "CIFAR-10": "benchmark/cifar10",
    "CIFAR-100": "benchmark/cifar100",
    "Oxford-IIIT Pets": "benchmark/oxford-iiit-pets",
    "Oxford Flowers-102": "benchmark/oxford-flowers102",
    "VTAB-1k": "vtab/mean_of_tasks",
}
TABLE_5 = {
    "vit-b16-i1k": (77.91, 83.57, 98.13, 87.13, 93.81, 89.49),
    "vit-b32-i1k": (73.38, 79.56, 97.77, 86.31, 92.04, 85.43),
    "vit-l16-i1k": (76.53, 82.19, 97.86, 86.35, 93.64, 89.66),
    "vit-l32-i1k": (71.16, 77.83, 97.94, 87.07, 91.35, 86.36),
    "vit-b16-i21k": (83.97, 88.35, 98.95, 91.67, 94.43, 99.38),
    "vit-b32-i21k": (81.28, 86.63, 98.79, 91.97, 93.02, 99.11),
    "vit-l16-i21k": (85.15, 88.40, 99.16, 93.44, 94.73, 99.61),
    "vit-l32-i21k": (80.99, 85.65, 99.13, 93.04, 93.09, 99.19),
}
# And exaFLOPs.
TABLE_6 = {
    "vit-b32-jft": (80.73, 86.27, 98.61, 90.49, 93.40, 99.27, 55),
    "vit-b16-jft": (84.15, 88.85, 99.00, 91.87, 95.80, 99.56, 224),
    "vit-l32-jft": (84.37, 88.28, 99.19, 92.52, 95.83, 99.45, 196),
    "vit-l16-jft": (86.30, 89.43, 99.38, 93.46, 96.81, 99.66, 783),
    "vit-l16-jft-14ep": (87.12, 89.99, 99.38, 94.04, 97.11, 99.56, 1567),
    "vit-h14-jft": (88.08, 90.36, 99.50, 94.71, 97.11, 99.71, 4262),
    "r50x1-jft": (77.54, 84.56, 97.67, 86.07, 91.11, 94.26, 50),
    "r50x2-jft": (82.12, 87.94, 98.29, 89.20, 93.43, 97.02, 199),
    "r101x1-jft": (80.67, 87.07, 98.48, 89.17, 94.08, 95.95, 96),
    "r152x1-jft": (81.88, 87.96, 98.82, 90.22, 94.17, 96.94, 141),
    "r152x2-jft": (84.97, 89.69, 99.06, 92.05, 95.37, 98.62, 563),
    "r152x2-jft-14ep": (85.56, 89.89, 99.24, 91.92, 95.75, 98.75, 1126),
    "r200x3-jft": (87.22, 90.15, 99.34, 93.53, 96.32, 99.04, 3306),
    "r50-vit-b32-jft": (84.90, 89.15, 99.01, 92.24, 95.75, 99.46, 106),
    "r50-vit-b16-jft": (85.58, 89.65, 99.14, 92.63, 96.65, 99.40, 274),
    "r50-vit-l32-jft": (85.68, 89.04, 99.24, 92.93, 96.97, 99.43, 246),
    "r50-vit-l16-jft": (86.60, 89.72, 99.18, 93.64, 97.03, 99.40, 859),
    "r50-vit-l16-jft-14ep": (87.12, 89.76, 99.31, 93.89, 97.36, 99.11, 1668),
}
# Mean and standard deviation of three fine-tunings at 512 px (H/14: 518) with Polyak averaging; the last is VTAB-1k.
TABLE_2 = {
    "vit-h14-jft": (
        *((88.55, 0.04), (90.72, 0.05), (99.50, 0.06), (94.55, 0.04)),
        *((97.56, 0.03), (99.68, 0.02), (77.63, 0.23)),
    ),
    "vit-l16-jft-14ep": (
        *((87.76, 0.03), (90.54, 0.03), (99.42, 0.03), (93.90, 0.05)),
        *((97.32, 0.11), (99.74, 0.00), (76.28, 0.46)),
    ),
    "vit-l16-i21k": (
        *((85.30, 0.02), (88.62, 0.05), (99.15, 0.03), (93.25, 0.05)),
        *((94.67, 0.15), (99.61, 0.02), (72.72, 0.21)),
    ),
}
# ImageNet and mean of ImageNet, CIFAR-10, CIFAR-100, Pets, Flowers.
TABLE_7 = {"r50x1-jft-sgd": (78.24, 88.79), "r152x2-jft-sgd": (84.37, 93.72)}
FEW_SHOT = "downstream/few_shot_5"  # where the downstream images are ImageNet's
# 5-shot ImageNet.
TABLE_8 = {
    "vit-b16-jft": 64.206,
    "vit-b16-jft-position-none": 61.382,
    "vit-b16-jft-position-learned-every": 63.964,
    "vit-b16-jft-position-learned-shared": 64.292,
    "vit-b16-jft-position-2d": 64.001,
    "vit-b16-jft-position-2d-every": 64.046,
    "vit-b16-jft-position-2d-shared": 64.022,
    "vit-b16-jft-position-relative": 64.032,
}
TASKS = (
    *(
        "natural/caltech101",
        "natural/cifar",
        "natural/dtd",
        "natural/oxford_flowers102",
        "natural/oxford_iiit_pet",
        "natural/sun397",
    ),
    *("natural/svhn", "specialized/patch_camelyon", "specialized/eurosat", "specialized/resisc45"),
    *("specialized/diabetic_retinopathy", "structured/clevr_count", "structured/clevr_dist", "structured/dmlab"),
    *("structured/dsprites_loc", "structured/dsprites_ori", "structured/kitti", "structured/smallnorb_azi"),
    "structured/smallnorb_ele",
)
TABLE_9 = {
    "vit-h14-jft": (
        *(95.3, 85.5, 75.2, 99.7, 97.2, 65.0, 88.9, 83.3, 96.7, 91.4),
        *(76.6, 91.7, 63.8, 53.1, 79.4, 63.3, 84.5, 33.2, 51.2),
    ),
    "vit-l16-jft-14ep": (
        *(95.4, 81.9, 74.3, 99.7, 96.7, 63.5, 87.4, 83.6, 96.5, 89.7),
        *(77.1, 86.4, 63.1, 49.7, 74.5, 60.5, 82.2, 36.2, 51.1),
    ),
    "vit-l16-i21k": (
        *(90.8, 84.1, 74.1, 99.3, 92.7, 61.0, 80.9, 82.5, 95.6, 85.2),
        *(75.3, 70.3, 56.1, 41.9, 74.7, 64.9, 79.9, 30.5, 41.7),
    ),
}
UPSTREAM = {  # top-1 of the upstream validation images
    "vit-b16-i21k": 47.88,
    "vit-b32-i21k": 44.04,
    "vit-l16-i21k": 49.90,
    "vit-l32-i21k": 45.42,
    "vit-b32-i1k": 69.19,
    "vit-b16-i1k": 74.79,
    "vit-l32-i1k": 66.90,
    "vit-l16-i1k": 72.59,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """One number of the paper."""

    what: str
    value: float  # percent; exaFLOPs where `what` says so
    std: float | None  # over three fine-tunings
    source: str
    measured_as: str | None  # our metric of the same thing; None: the pipeline does not measure it


def published(pipeline: str) -> list[Published]:
    """What the paper has for the row that a pipeline reproduces; nothing for other pipelines."""
    return list(_published(pipeline))


def _published(pipeline: str) -> Iterator[Published]:
    if pipeline in UPSTREAM:
        yield _one("upstream validation", UPSTREAM[pipeline], "issue 62", "pretrain/val/top1")
    for table, source in ((TABLE_5, "Table 5"), (TABLE_6, "Table 6")):
        for what, value in zip(BENCHMARKS, table.get(pipeline, ()), strict=False):
            yield _one(what, value, source, MEASURED[what])
    if pipeline in TABLE_6:
        yield _one("pre-training, exaFLOPs", TABLE_6[pipeline][-1], "Table 6", "pretrain/exaflops")
    if pipeline in TABLE_7:
        imagenet, mean = TABLE_7[pipeline]
        yield _one("ImageNet", imagenet, "Table 7", IMAGENET)
        yield _one("mean of five data sets", mean, "Table 7", None)
    if pipeline in TABLE_8:
        yield _one("ImageNet, 5-shot", TABLE_8[pipeline], "Table 8", FEW_SHOT)
    for what, (value, std) in zip((*BENCHMARKS, "VTAB-1k"), TABLE_2.get(pipeline, ()), strict=False):
        yield dataclasses.replace(_one(what, value, "Table 2", MEASURED[what]), std=std)
    if pipeline in TABLE_9:
        yield from _vtab(TABLE_9[pipeline])


def _vtab(scores: tuple[float, ...]) -> Iterator[Published]:
    """Means of the groups of Fig. 2, which the paper only draws: from Table 9, and its tasks."""
    tasks = dict(zip(TASKS, scores, strict=True))
    for group in ("natural", "specialized", "structured"):
        values = [score for task, score in tasks.items() if task.startswith(group)]
        yield _one(f"VTAB-1k, {group}", sum(values) / len(values), "Table 9, mean", f"vtab/{group}")
    for task, score in tasks.items():
        yield _one(task, score, "Table 9", f"vtab/{task}")


def _one(what: str, value: float, source: str, measured_as: str | None) -> Published:
    return Published(what=what, value=value, std=None, source=source, measured_as=measured_as)
