"""Oxford Flowers-102 (Nilsback and Zisserman 2008) from 102flowers.tgz, imagelabels.mat and setid.mat.

The test split is six times as large as train. That is no mistake, though readers have swapped the two
(PaddlePaddle/Paddle#12282): `trnid` is train, `valid` is val, `tstid` is test. Labels are published from 1.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from vit.data.datasets import matlab
from vit.data.datasets.archives import BadArchive, is_gzipped, members, plain
from vit.data.datasets.dev_split import PERCENT, chosen, hold_out, own_key
from vit.data.datasets.download import Archive, need
from vit.data.record import Record, Source
from vit.typing import Ints

NAME = "oxford-flowers102"
PUBLISHER = "the Visual Geometry Group, https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
IMAGES = Archive(
    name="102flowers.tgz",
    publisher=PUBLISHER,
    digest="md5:52808999861908f626f3c1f4e79d11fa",
    size=344_862_509,
    url=URL + "102flowers.tgz",
    folders=("jpg",),
)
LABELS = Archive(
    name="imagelabels.mat",
    publisher=PUBLISHER,
    digest="md5:e0620be6f572b9609742df49c70aed4d",
    size=502,
    url=URL + "imagelabels.mat",
)
SPLITS = Archive(
    name="setid.mat",
    publisher=PUBLISHER,
    digest="md5:a5357ecc9cb78c4bef273ce3793fc85c",
    size=14_989,
    url=URL + "setid.mat",
)
ARCHIVES = {NAME: (IMAGES, LABELS, SPLITS)}
# In the order of the published labels, as on the publisher's page of categories.
CLASS_NAMES = tuple(
    """
pink primrose; hard-leaved pocket orchid; canterbury bells; sweet pea; english marigold; tiger lily;
moon orchid; bird of paradise; monkshood; globe thistle; snapdragon; colt's foot; king protea; spear thistle;
yellow iris; globe-flower; purple coneflower; peruvian lily; balloon flower; giant white arum lily; fire lily;
pincushion flower; fritillary; red ginger; grape hyacinth; corn poppy; prince of wales feathers;
stemless gentian; artichoke; sweet william; carnation; garden phlox; love in the mist; mexican aster;
alpine sea holly; ruby-lipped cattleya; cape flower; great masterwort; siam tulip; lenten rose; barbeton daisy;
daffodil; sword lily; poinsettia; bolero deep blue; wallflower; marigold; buttercup; oxeye daisy;
common dandelion; petunia; wild pansy; primula; sunflower; pelargonium; bishop of llandaff; gaura; geranium;
orange dahlia; pink-yellow dahlia?; cautleya spicata; japanese anemone; black-eyed susan; silverbush;
californian poppy; osteospermum; spring crocus; bearded iris; windflower; tree poppy; gazania; azalea;
water lily; rose; thorn apple; morning glory; passion flower; lotus; toad lily; anthurium; frangipani; clematis;
hibiscus; columbine; desert-rose; tree mallow; magnolia; cyclamen; watercress; canna lily; hippeastrum;
bee balm; ball moss; foxglove; bougainvillea; camellia; mallow; mexican petunia; bromelia; blanket flower;
trumpet creeper; blackberry lily
""".replace("\n", " ")
    .strip()
    .split("; ")
)
NUM_CLASSES = len(CLASS_NAMES)
VARIABLES = {"train": "trnid", "val": "valid", "test": "tstid"}


def flowers(directory: Path, *, splits: Sequence[str] = (), dev: bool = False) -> Source:
    """Oxford Flowers-102: train (1,020), val (1,020) and test (6,149), labels 0 … 101.

    With `dev`, `val` is 10 % of train instead, as in big_vision's transfer, and the published val is left out. Keys
    are TFDS's: `image_00001.jpg`. Raises ValueError if a file is missing or the three contradict each other.
    """
    wanted = chosen(splits, tuple(VARIABLES), NAME)
    labels, listed = _tables(directory)
    place = need(directory, IMAGES)
    records = list(_records(place, labels, listed))
    if dev:
        records = list(hold_out([record for record in records if record.split != "val"], PERCENT[NAME], own_key))
    return Source(
        name=NAME,
        family="lossless",
        class_names=CLASS_NAMES,
        records=[record for record in records if record.split in wanted],
        keep_order=is_gzipped(place),
        where=str(place),
    )


def _tables(directory: Path) -> tuple[Ints, dict[str, str]]:
    """Labels (from 0) by number of the image (from 1), and the split of each file."""
    labels = _variable(need(directory, LABELS), "labels")
    if labels.min() < 1 or labels.max() > NUM_CLASSES:
        raise BadArchive(f"{directory / LABELS.name} has labels {labels.min()} … {labels.max()}, not 1 … {NUM_CLASSES}")
    listed: dict[str, str] = {}
    for split, variable in VARIABLES.items():
        for number in _variable(need(directory, SPLITS), variable).tolist():
            name = f"image_{number:05d}.jpg"
            if name in listed or not 1 <= number <= len(labels):
                raise BadArchive(
                    f"{directory / SPLITS.name} lists {name} in {variable} and elsewhere, or it has no label"
                )
            listed[name] = split
    return labels - 1, listed


def _variable(path: Path, name: str) -> Ints:
    variables = matlab.load(plain(path))
    if name not in variables:
        raise BadArchive(f"{path} has no variable {name}; get it again")
    return np.atleast_1d(variables[name]).astype(np.int64)


def _records(place: Path, labels: Ints, listed: dict[str, str]) -> Iterator[Record]:
    missing = dict.fromkeys(listed)
    for member in members(place):
        name = PurePosixPath(member.name).name
        if name not in missing:
            continue
        del missing[name]
        label = int(labels[int(name.removeprefix("image_").removesuffix(".jpg")) - 1])
        yield Record(key=name, split=listed[name], labels=(label,), read=member.read, ext="jpg")
    if missing:
        raise BadArchive(f"{place} lacks {len(missing)} of {len(listed)} listed images, first {next(iter(missing))}")
