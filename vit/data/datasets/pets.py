"""Oxford-IIIT Pets (Parkhi et al. 2012) from images.tar.gz and annotations.tar.gz.

Twelve of its `.jpg` are not sound JPEGs (tensorflow/datasets: oxford_iiit_pet_dataset_builder.py lists them): four are
PNGs with an alpha channel, six are GIFs, two have stray bytes. They are passed on as published, since the decoder goes
by content and makes RGB of them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from vit.data.datasets.archives import BadArchive, is_gzipped, members
from vit.data.datasets.dev_split import PERCENT, chosen, hold_out, own_key
from vit.data.datasets.download import Archive, need
from vit.data.record import Record, Source

NAME = "oxford-iiit-pets"
PUBLISHER = "the Visual Geometry Group, https://www.robots.ox.ac.uk/~vgg/data/pets/"
URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
IMAGES = Archive(
    name="images.tar.gz",
    publisher=PUBLISHER,
    digest="md5:5c4f3ee8e5d25df40f4fd59a7f44e54c",
    size=791_918_971,
    url=URL + "images.tar.gz",
    folders=("images",),
)
ANNOTATIONS = Archive(
    name="annotations.tar.gz",
    publisher=PUBLISHER,
    digest="md5:95a8c909bbe2e81eed6a22bccdf3f68f",
    size=19_173_078,
    url=URL + "annotations.tar.gz",
    folders=("annotations",),
)
ARCHIVES = {NAME: (IMAGES, ANNOTATIONS)}
LISTS = {"train": "trainval.txt", "test": "test.txt"}


def pets(directory: Path, *, splits: Sequence[str] = (), dev: bool = False) -> Source:
    """Oxford-IIIT Pets: train (trainval.txt, 3,680) and test (3,669), 37 classes; with `dev`, 10 % of train are `val`.

    Labels are CLASS-ID - 1, keys are TFDS's: `Abyssinian_100.jpg`. Raises ValueError if an archive is missing or the
    lists contradict each other or the images.
    """
    wanted = chosen(splits, ("train", "val", "test") if dev else ("train", "test"), NAME)
    listed, class_names = _lists(need(directory, ANNOTATIONS))
    place = need(directory, IMAGES)
    records = list(_records(place, listed))
    kept = hold_out(records, PERCENT[NAME], own_key) if dev else iter(records)
    return Source(
        name=NAME,
        family="lossless",
        class_names=class_names,
        records=[record for record in kept if record.split in wanted],
        keep_order=is_gzipped(place),
        where=str(place),
    )


def _lists(place: Path) -> tuple[dict[str, tuple[str, int]], tuple[str, ...]]:
    """Split and CLASS-ID of each image, and the names of the classes in the order of the ids."""
    texts = {PurePosixPath(m.name).name: m for m in members(place) if PurePosixPath(m.name).name in LISTS.values()}
    listed: dict[str, tuple[str, int]] = {}
    names: dict[int, str] = {}
    for split, file in LISTS.items():
        if file not in texts:
            raise BadArchive(f"{place} holds no {file}; get it again")
        for line in texts[file].read().decode(errors="replace").splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            name, class_id = _parsed(line, f"{file} in {place}")
            if name in listed:
                raise BadArchive(f"{file} in {place} lists {name}, which is listed before; get it again")
            breed = name.rpartition("_")[0]
            if names.setdefault(class_id, breed) != breed:
                raise BadArchive(f"{file} in {place} gives {breed} the id {class_id} of {names[class_id]}")
            listed[name] = split, class_id
    if sorted(names) != list(range(1, len(names) + 1)):
        raise BadArchive(f"the class ids in {place} are {sorted(names)}, not 1, 2, 3 …; get it again")
    return listed, tuple(names[class_id] for class_id in sorted(names))


def _parsed(line: str, where: str) -> tuple[str, int]:
    """Name and CLASS-ID of `Abyssinian_100 1 1 1`: name, class, species, breed within the species."""
    fields = line.split()
    if len(fields) != 4 or not all(field.isdigit() for field in fields[1:]):
        raise BadArchive(f"{where} has the line {line!r}, which is not `name CLASS-ID SPECIES BREED-ID`")
    return fields[0], int(fields[1])


def _records(place: Path, listed: dict[str, tuple[str, int]]) -> Iterator[Record]:
    """In the order of the archive, which also holds three .mat files."""
    missing = dict.fromkeys(listed)
    for member in members(place):
        path = PurePosixPath(member.name)
        if path.suffix != ".jpg" or path.stem not in missing:
            continue
        del missing[path.stem]
        split, class_id = listed[path.stem]
        yield Record(key=path.name, split=split, labels=(class_id - 1,), read=member.read, ext="jpg")
    if missing:
        raise BadArchive(f"{place} lacks {len(missing)} of {len(listed)} listed images, first {next(iter(missing))}")
