"""The Describable Textures Dataset (Cimpoi et al. 2014), release 1.0.1: the splits are those of its first fold.

The published `.tar.gz` may be a plain tar; the content decides.
"""

from pathlib import Path

from vit.data.datasets.archives import is_gzipped
from vit.data.datasets.download import Archive, need
from vit.data.datasets.vtab.dataset import Dataset, Item, Part, lines, part, tree, wanted

ARCHIVE = Archive(
    name="dtd-r1.0.1.tar.gz",
    publisher="the Visual Geometry Group, https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    digest="sha256:e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
    size=625_239_812,
    url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
    folders=("dtd",),
)
ARCHIVES = (ARCHIVE,)
LISTS = {"train": "train1.txt", "validation": "val1.txt", "test": "test1.txt"}


def dtd(directory: Path) -> Dataset:
    """Fold 1 of DTD, keys `banded/banded_0002.jpg`, the label being the folder (its key attribute).

    Raises ValueError if the archive is missing, a list is, or an image that one names.
    """
    place = need(directory, ARCHIVE)
    files = tree(place, "dtd")
    listed = {split: lines(wanted(files, f"labels/{name}", place)) for split, name in LISTS.items()}
    names = sorted({key.partition("/")[0] for keys in listed.values() for key in keys})
    order = {name: position for position, name in enumerate(files)}
    parts: dict[str, Part] = {}
    for split, keys in listed.items():
        images = {key: wanted(files, f"images/{key}", place) for key in keys}
        keys.sort(key=lambda key: order[f"images/{key}"])
        parts[split] = part(
            Item(key=key, label=names.index(key.partition("/")[0]), read=images[key].read) for key in keys
        )
    return Dataset(where=place, class_names=tuple(names), parts=parts, ext="jpg", keep_order=is_gzipped(place))
