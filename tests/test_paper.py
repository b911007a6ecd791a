"""The paper's pipelines against one table of facts, typed in from the paper and the authors' published configs.

Numbers stand here a second time on purpose: a slip in pipelines.yaml must not pass.
"""

import dataclasses
from typing import Any

import pytest

from flows.stages.config import Pipeline, load, names
from tests.checkout import ROOT

PAPER = tuple(name for name in names() if name not in ("mini", "digits"))
# Table 3: network, epochs, base learning rate. JFT: linear decay, weight decay 0.1, no dropout.
JFT = {
    "vit-b16-jft": ("ViT-B/16", 7, 8e-4),
    "vit-b32-jft": ("ViT-B/32", 7, 8e-4),
    "vit-l32-jft": ("ViT-L/32", 7, 6e-4),
    "vit-l16-jft": ("ViT-L/16", 7, 4e-4),
    "vit-l16-jft-14ep": ("ViT-L/16", 14, 4e-4),
    "vit-h14-jft": ("ViT-H/14", 14, 3e-4),
    "r50x1-jft": ("R50x1", 7, 1e-3),
    "r50x2-jft": ("R50x2", 7, 1e-3),
    "r101x1-jft": ("R101x1", 7, 8e-4),
    "r152x1-jft": ("R152x1", 7, 6e-4),
    "r152x2-jft": ("R152x2", 7, 6e-4),
    "r50-vit-b32-jft": ("R50+ViT-B/32", 7, 8e-4),
    "r50-vit-b16-jft": ("R50+ViT-B/16", 7, 8e-4),
    "r50-vit-l32-jft": ("R50+ViT-L/32", 7, 2e-4),
    "r50-vit-l16-jft": ("R50+ViT-L/16", 7, 4e-4),
    "r50-vit-l16-jft-14ep": ("R50+ViT-L/16", 14, 4e-4),
}
# In Table 6 but not in Table 3: the rate is that of the nearest row.
UNLISTED = {"r152x2-jft-14ep": ("R152x2", 14, 6e-4), "r200x3-jft": ("R200x3", 14, 6e-4)}
# ImageNet-21k: linear, 0.03, 0.1. ImageNet-1k: cosine, 0.3, 0.1.
I21K = {
    "vit-b16-i21k": ("ViT-B/16", 90, 1e-3),
    "vit-b32-i21k": ("ViT-B/32", 90, 1e-3),
    "vit-l16-i21k": ("ViT-L/16", 90, 1e-3),
    "vit-l32-i21k": ("ViT-L/32", 90, 1e-3),
    "vit-l16-i21k-30ep": ("ViT-L/16", 30, 1e-3),
    "vit-l32-i21k-30ep": ("ViT-L/32", 30, 1e-3),
}
I1K = {f"vit-{size}-i1k": (f"ViT-{size[0].upper()}/{size[1:]}", 300, 3e-3) for size in ("b16", "b32", "l16", "l32")}
# Data, of TABLE_3 by kind: images, decay, weight decay, dropout, label smoothing, norm of clipping (§4.1, Table 3).
KINDS = {
    "jft": (303_000_000, "linear", 0.1, 0.0, 0.0, 0.0),
    "i21k": (14_197_122, "linear", 0.03, 0.1, 1e-4, 0.0),
    "i1k": (1_281_167, "cosine", 0.3, 0.1, 1e-4, 1.0),
}
TABLE_3 = {name: (*row, "jft") for name, row in (JFT | UNLISTED).items()}
TABLE_3 |= {name: (*row, "i21k") for name, row in I21K.items()} | {name: (*row, "i1k") for name, row in I1K.items()}
# Table 4, grid of learning rates and steps of ImageNet and VTAB.
IMAGENET_STEPS, IMAGENET_RATES = 20_000, (0.003, 0.01, 0.03, 0.06)
VTAB_STEPS, VTAB_RATE = 2_500, 0.01
# Fig. 4: millions of images of 303, with which network and rate of Table 3.
SUBSETS = {9: 0.03, 30: 0.1, 90: 0.3}
SUBSET_NETWORKS = {"vit-b32": "vit-b32-jft", "vit-l16": "vit-l16-jft", "r50x1": "r50x1-jft", "r152x2": "r152x2-jft"}
# Table 8, columns left to right for each row; default: learned at the stem.
POSITIONS = {
    "none": ("none", "stem"),
    "learned-every": ("learned", "every"),
    "learned-shared": ("learned", "shared"),
    "2d": ("2d", "stem"),
    "2d-every": ("2d", "every"),
    "2d-shared": ("2d", "shared"),
    "relative": ("relative", "every"),
}
# AugReg, big_vision's vit_i1k.py and vit_i21k.py: RandAugment's layers and magnitude, mixup.
LEVELS = {"none": (0, 0, 0.0), "light1": (2, 0, 0.0), "light2": (2, 10, 0.2), "medium2": (2, 15, 0.5)}
AUGREG = {
    "i1k": {"ti16": "light1", "s32": "light2", "s16": "medium2", "b32": "medium2", "b16": "medium2", "l16": "medium2"},
    "i21k": {"ti16": "none", "s32": "none", "s16": "light1", "b32": "light2", "b16": "light2", "l16": "medium2"},
}


@pytest.fixture(autouse=True)
def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_ROOT", str(ROOT))


def differences(one: Any, other: Any) -> dict[str, Any]:
    """Fields of `one` that differ from those of `other`, by name."""
    return {
        field.name: getattr(one, field.name)
        for field in dataclasses.fields(one)
        if getattr(one, field.name) != getattr(other, field.name, None)
    }


def network(pipeline: Pipeline, variant: str) -> bool:
    """Whether the pipeline trains that network of the zoo at 224 px, but for head, dropout, positions, pooling."""
    from vit.models.variants import configure

    changed = differences(pipeline.pretrain.model, configure(variant, 224))
    return set(changed) <= {"representation", "dropout", "position", "position_at", "pooling"}


def test_each_row_of_table_3_and_6_has_its_pipeline() -> None:
    assert len(JFT | UNLISTED) == 18  # Table 6
    assert set(TABLE_3) <= set(PAPER)


@pytest.mark.parametrize("name", TABLE_3)
def test_table_3(name: str) -> None:
    variant, epochs, rate, kind = TABLE_3[name]
    images, decay, weight_decay, dropout, smoothing, clip = KINDS[kind]
    pipeline = load(name)
    train, model = pipeline.pretrain.train, pipeline.pretrain.model
    assert network(pipeline, variant)
    assert (train.learning_rate, train.decay, train.weight_decay) == (rate, decay, weight_decay)
    assert (train.batch_size, train.warmup_steps, train.steps) == (4096, 10_000, round(epochs * images / 4096))
    assert (train.optimizer, train.betas, train.eps, train.decay_on) == ("adamw", (0.9, 0.999), 1e-8, "all")
    assert (train.loss, train.label_smoothing, train.grad_clip_norm) == ("sigmoid", smoothing, clip)
    assert (train.average, train.validate_every, train.cooldown_steps, train.stochastic_depth) == (0, 0, 0, 0)
    if model.family == "vit":
        assert (model.dropout, model.representation, model.pooling) == (dropout, True, "tok")
        assert (model.position, model.position_at) == ("learned", "stem")
    assert (pipeline.pretrain.head_bias, pipeline.pretrain.subset, pipeline.pretrain.masking) == (-10, 1, None)


@pytest.mark.parametrize("name", PAPER)
def test_inception_crop_and_flip_at_224_px(name: str) -> None:
    """§4.1, App. B.1."""
    config = load(name).pretrain
    assert (config.model.resolution, config.augment.crop, config.augment.crop_area) == (224, "inception", 0.05)
    assert config.augment.flip and config.augment.evaluation == "centre" and not config.augment.mix.cutmix


@pytest.mark.parametrize("name", PAPER)
def test_table_4(name: str) -> None:
    pipeline = load(name)
    tuned, scored = pipeline.finetune, pipeline.evaluate
    assert tuple(tuned.sweep.learning_rates) == IMAGENET_RATES and tuned.train.learning_rate in IMAGENET_RATES
    assert scored.train.learning_rate == VTAB_RATE and not scored.sweep.learning_rates  # one setting for all tasks
    assert tuned.dev_percent == 1 and tuned.protocol == scored.protocol == "own"
    for sweep in (tuned.sweep, scored.sweep):
        assert (list(sweep.seeds), list(sweep.steps), list(sweep.rungs)) == ([0, 1, 2], [], [])
    assert (tuned.train.steps, tuned.train.warmup_steps) == (IMAGENET_STEPS, 500)
    assert (scored.train.steps, scored.train.warmup_steps) == (VTAB_STEPS, 200)
    for stage in (tuned, scored):
        train = stage.train
        assert (train.optimizer, train.momentum, train.batch_size, train.decay) == ("sgd", 0.9, 512, "cosine")
        assert (train.weight_decay, train.grad_clip_norm, train.loss, train.average) == (0, 1, "softmax", 0)
        assert stage.resolution == (378 if name == "vit-h14-jft" else 384)
    assert (scored.augment.crop, scored.augment.crop_area, scored.augment.flip) == ("square", 0.735, True)
    assert list(scored.probes.shots) == [1, 5, 10, 25]


@pytest.mark.parametrize("network", SUBSET_NETWORKS)
@pytest.mark.parametrize("millions", SUBSETS)
def test_data_size(network: str, millions: int) -> None:
    """§4.3: the settings of Table 3, and of the validations the best."""
    whole, part = load(SUBSET_NETWORKS[network]).pretrain, load(f"{network}-jft-{millions}m").pretrain
    assert set(differences(part, whole)) == {"subset", "train"} and part.subset == SUBSETS[millions]
    assert differences(part.train, whole.train) == {"validate_every": 5000, "patience": 10}


@pytest.mark.parametrize("name", POSITIONS)
def test_table_8(name: str) -> None:
    default, changed = load("vit-b16-jft").pretrain, load(f"vit-b16-jft-position-{name}").pretrain
    assert set(differences(changed, default)) == {"model"}
    assert set(differences(changed.model, default.model)) <= {"position", "position_at"}
    model: Any = changed.model
    assert (model.position, model.position_at) == POSITIONS[name]


@pytest.mark.parametrize("name", ["r50x1-jft", "r152x2-jft"])
def test_table_7(name: str) -> None:
    """BiT's rate is 0.03 for 256 images; momentum 0.9, L2 of 1e-4, 5,000 steps of warm-up (bit_hyperrule, bit_i21k)."""
    adam, sgd = load(name).pretrain, load(f"{name}-sgd").pretrain
    changed = differences(sgd.train, adam.train)
    assert changed.pop("learning_rate") == pytest.approx(0.03 * 4096 / 256)
    assert changed == {
        **{"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "warmup_steps": 5000, "decay": "cosine"},
    }


def test_masked_patch_prediction() -> None:
    """App. B.1.2."""
    config = load("vit-b16-jft-masked").pretrain
    assert config.masking is not None
    assert dataclasses.astuple(config.masking) == ("mean_colour", 0.5, 0.8, 0.1)
    train = config.train
    assert (train.steps, train.learning_rate, train.warmup_steps, train.decay) == (1_000_000, 2e-4, 10_000, "cosine")


def test_better_plain_vit() -> None:
    """big_vision's vit_s16_i1k.py; its decay of 1e-4 beside a rate of 1e-3 is AdamW's 0.1."""
    pipeline = load("vit-s16-i1k-90ep")
    train, model, augment = pipeline.pretrain.train, pipeline.pretrain.model, pipeline.pretrain.augment
    assert network(pipeline, "ViT-S/16") and model.family == "vit"
    assert (model.pooling, model.position, model.representation, model.dropout) == ("gap", "sincos2d", True, 0)
    assert (train.batch_size, train.learning_rate, train.weight_decay, train.decay_on) == (1024, 1e-3, 0.1, "matrices")
    assert (train.steps, train.warmup_steps, train.decay) == (90 * 1_268_355 // 1024, 10_000, "cosine")
    assert (train.loss, train.label_smoothing, train.grad_clip_norm) == ("softmax", 0, 1)
    assert (*dataclasses.astuple(augment.randaugment), augment.mix.mixup) == LEVELS["light2"]


@pytest.mark.parametrize(("data", "size"), [(data, size) for data, sizes in AUGREG.items() for size in sizes])
def test_augreg(data: str, size: str) -> None:
    pipeline = load(f"vit-{size}-{data}-augreg")
    train, model, augment = pipeline.pretrain.train, pipeline.pretrain.model, pipeline.pretrain.augment
    letters, patch = size.rstrip("0123456789"), size.lstrip("abcdefghijklmnopqrstuvwxyz")
    assert network(pipeline, f"ViT-{letters.capitalize()}/{patch}") and model.family == "vit"
    assert (*dataclasses.astuple(augment.randaugment), augment.mix.mixup) == LEVELS[AUGREG[data][size]]
    images = {"i1k": 1_268_355, "i21k": 14_197_122 - 51_200}[data]
    assert (train.batch_size, train.steps, train.decay) == (4096, 300 * images // 4096, "cosine")
    assert (train.learning_rate, train.weight_decay, train.decay_on) == (1e-3, 0.1, "matrices")
    assert (train.loss, train.grad_clip_norm, train.warmup_steps) == (
        {"i1k": "softmax", "i21k": "sigmoid"}[data],
        1,
        10_000,
    )
    # vit_i1k.py pools by class token and has the tanh layer, vit_i21k.py neither.
    assert (model.pooling, model.representation) == {"i1k": ("tok", True), "i21k": ("gap", False)}[data]
    assert (model.position, model.dropout) == ("learned", 0)


@pytest.mark.parametrize("name", PAPER)
def test_where_images_come_from_and_what_it_is_called(name: str) -> None:
    pipeline = load(name)
    source, location = {
        "i1k": ("dataset:imagenet2012", "data/imagenet2012"),
        "i21k": ("dataset:imagenet21k-fall11", "data/imagenet21k"),
        "jft": ("reference", "data/jft"),
    }[next(kind for kind in ("i1k", "i21k", "jft") if f"-{kind}" in name)]
    assert (pipeline.prepare.source, pipeline.prepare.location, pipeline.prepare.tasks) == (
        source,
        location,
        "data/vtab",
    )
    downstream = pipeline.prepare.downstream  # ImageNet itself needs none: Table 5's rows are fine-tuned on it
    assert (downstream is None) == (source == "dataset:imagenet2012")
    assert downstream is None or (downstream.source, downstream.location) == (
        "dataset:imagenet2012",
        "data/imagenet2012",
    )
    assert pipeline.register.model_name == name and pipeline.deploy.description
    assert "augreg" in name or pipeline.prepare.num_val == (102_400 if source.endswith("fall11") else 0)


def test_every_pipeline_of_the_paper_is_tested_here() -> None:
    known = {*TABLE_3, "vit-b16-jft-masked", "vit-s16-i1k-90ep", "r50x1-jft-sgd", "r152x2-jft-sgd"}
    known |= {f"{network}-jft-{millions}m" for network in SUBSET_NETWORKS for millions in SUBSETS}
    known |= {f"vit-b16-jft-position-{name}" for name in POSITIONS}
    known |= {f"vit-{size}-{data}-augreg" for data, sizes in AUGREG.items() for size in sizes}
    assert known == set(PAPER)
