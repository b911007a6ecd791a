"""prepare: images from a source become a corpus (train, val) and the tasks that it will be judged by.

`mini` draws everything itself, `digits` is inside scikit-learn; the other sources read what people have
(vit/data/sources, vit/data/datasets).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.adapters import storage
from flows.stages import arrivals, corpora, output, tasks
from flows.stages.spread import spread
from flows.stages.suite import DOWNSTREAM
from vit.data import inspection
from vit.data.index import read_manifest, refer_to
from vit.data.record import Source
from vit.data.sources.digits import digits
from vit.data.sources.labels import Columns
from vit.data.synthetic import corpus, planted
from vit.data.writing import refer, write_source

EMBEDDED = ("mini", "digits")  # they need no location
SOURCES = (*EMBEDDED, *corpora.SOURCES, "reference")
SHEET = "corpus.png"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Downstream:
    """Labelled images to fine-tune on, with splits train and val, such as ImageNet's."""

    source: str  # as of the corpus, but mini and reference
    location: str | None  # where they are; null: those of digits, with the test images of mini_digits as val

    def __post_init__(self) -> None:
        corpora.check_kind(self.source, "digits")
        _check_location("downstream.", self.source, self.location)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What the corpus is made of, what a model fine-tunes on, and by which tasks it is judged."""

    seed: int  # mini: which images are drawn; the tasks are the same for every seed
    # mini, digits, folder, table, webdataset, huggingface, reference (shards that stay where they are) or dataset:NAME
    source: str
    # A path or an s3:// address of a directory, or of a table; a path for dataset:NAME; null if embedded
    location: str | None
    columns: Columns  # table, huggingface: which columns hold what
    # A file with the name of a class on each line: table, webdataset, huggingface; imagenet21k: WordNet ids, in the
    # order of a head of 21,843 say, of which some may have no image
    classes: str | None
    num_val: int  # imagenet21k: images that are val, by the MD5 order of all (the paper: 102,400); 0: val_fraction
    merge: bool  # imagenet21k: images of equal bytes become one with all their labels
    num_images: int  # mini: train, val and planted images together
    val_fraction: float  # of each class, where the source has no val
    planted_fraction: float  # mini: share of the corpus that are edited copies of test images
    downstream: Downstream | None  # what finetune trains on (§3.2), and deduplicate guards the val of; null: the corpus
    max_reject_share: float  # of all images; more unusable ones than these stop the run
    tasks: str | None  # a directory with VTAB's data (docs/data.md): its tasks; null: the ten of mini-VTAB
    benchmarks: Sequence[str]  # data sets of Table 2 to judge by, too; their archives lie in that directory

    def __post_init__(self) -> None:
        _check_source(self)
        corpora.check_options(self.source, classes=self.classes, num_val=self.num_val, merge=self.merge)
        if self.source == "mini" and self.num_images < 2 * len(corpus.CLASS_NAMES):
            raise ValueError(
                f"num_images is {self.num_images}; the mini corpus has {len(corpus.CLASS_NAMES)} classes and needs two "
                f"images of each, so at least {2 * len(corpus.CLASS_NAMES)}"
            )
        if self.source == "mini" and self.tasks:
            raise ValueError("source mini hides copies of mini-VTAB's images, so it goes with those tasks: null")
        if unknown := [name for name in self.benchmarks if name not in tasks.BENCHMARKS]:
            raise ValueError(f"benchmark {unknown[0]!r} is unknown; there are {', '.join(tasks.BENCHMARKS)}")
        if self.benchmarks and not self.tasks:
            raise ValueError(f"benchmarks {list(self.benchmarks)} are read from the directory `tasks`, which is null")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}; it must be more than 0 and less than 1")
        if not 0 <= self.planted_fraction <= 0.5:
            raise ValueError(f"planted_fraction is {self.planted_fraction}; it must be between 0 and 0.5")
        if not 0 <= self.max_reject_share < 1:
            raise ValueError(f"max_reject_share is {self.max_reject_share}; it must be at least 0 and less than 1")


def prepare(config: PrepareConfig, *, out: Path) -> Path:
    """Write `corpus/`, `downstream/` if there is one, `tasks/` and a contact sheet; planted.parquet (mini) beside them.

    Raises ValueError if the source is no usable corpus: see vit.data.writing.write_source.
    """
    with output.writing(out, "prepare", config, {}) as work:
        arrivals.write(arrivals.look(config), work)
        if config.source == "mini":
            _write_mini(config, work)
        else:
            _write_corpus(config, work / "corpus")  # first: it may turn out to be unusable
            tasks.write(work / "tasks", config.tasks, map=spread, benchmarks=config.benchmarks)
        if config.downstream is not None:
            source = _downstream(config.downstream)
            write_source(work.absolute() / DOWNSTREAM, source, name=DOWNSTREAM, **_rules(config))
            _check_splits(work / DOWNSTREAM, source.where)
        inspection.sheet_of(work / "corpus", storage.open).save(work / SHEET, optimize=True)
    return out


def _write_mini(config: PrepareConfig, work: Path) -> None:
    copies = corpus.write(
        work / "corpus",
        tasks.write_mini(work / "tasks"),
        seed=config.seed,
        num_images=config.num_images,
        val_fraction=config.val_fraction,
        planted_fraction=config.planted_fraction,
    )
    planted.write_pairs(copies, work / "planted.parquet")


def _downstream(config: Downstream) -> Source:
    if config.location is None:
        return digits(downstream=True)
    return corpora.open_source(config.source, config.location)


def _write_corpus(config: PrepareConfig, directory: Path) -> None:
    location = str(config.location)
    rules = _rules(config)
    if config.source == "reference" and corpora.guess(location) == "shards":
        refer_to(directory, storage.open(location), corpora.absolute(location))
    elif config.source == "reference":
        source = corpora.open_source("webdataset", location, classes=config.classes)
        refer(directory, source, corpora.absolute(location), **rules)
    elif config.source == "digits":
        write_source(directory.absolute(), digits(downstream=False), name="corpus", **rules)
    else:
        source = corpora.open_source(
            config.source,
            location,
            columns=config.columns,
            classes=config.classes,
            num_val=config.num_val,
            merge=config.merge,
        )
        write_source(directory.absolute(), source, name="corpus", **rules)
    _check_splits(directory, location)


def _rules(config: PrepareConfig) -> dict[str, Any]:
    rules: dict[str, Any] = {"max_reject_share": config.max_reject_share, "val_fraction": config.val_fraction}
    return rules | {"needs_val": True, "map": spread}


def _check_splits(directory: Path, location: str) -> None:
    splits = read_manifest(directory)["splits"]
    if not {"train", "val"} <= set(splits):
        raise ValueError(f"{location} has splits {', '.join(splits)}, but training needs images in train and in val")


def _check_source(config: PrepareConfig) -> None:
    corpora.check_kind(config.source, *EMBEDDED, "reference")
    _check_location("", config.source, config.location)


def _check_location(where: str, source: str, location: str | None) -> None:
    if source not in EMBEDDED and not location:
        raise ValueError(f"{where}source is {source}, but {where}location is null; set it to where the images are")
    if source == "digits" and location:
        raise ValueError(
            f"{where}location is {location}, but {where}source digits has its images itself; set it to null"
        )
