"""ImageNet-V2 (Recht et al. 2019): three test sets of 10,000 images for the classes of ImageNet-1k.

The folders are the class indices in decimal. Sorted as text, as generic readers of image folders do, they give 0, 1,
10, 100, … and with it wrong labels; here the number is the label. The published `.tar.gz` are plain tars.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from vit.data.datasets.archives import BadArchive, Member, is_gzipped, members
from vit.data.datasets.dev_split import chosen
from vit.data.datasets.download import Archive, need, present
from vit.data.datasets.imagenet import DEVKIT, devkit
from vit.data.record import Record, Source

NUM_CLASSES = 1000
PUBLISHER = "the authors, https://github.com/modestyachts/ImageNetV2"
URL = "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/"  # where the authors' README leads
VARIANTS = {  # what comes after imagenetv2-: size in bytes, sha256
    "matched-frequency": (1_264_079_360, "f0c37fdf925916b19ea1323cd9a2208cdb6959ba2c32eef2a7fc393835c9ca7c"),
    "threshold0.7": (1_249_906_176, "32142bfe998f9cfa4141be691f6a80eeb1e27b24bd532a668eb08c26d98897a2"),
    "top-images": (1_245_927_936, "85e4ace30f3f0d660152062254b8759dda66267b27f7ec0fd8d5768f1073a04b"),
}
ARCHIVES = {
    "imagenet-v2" if variant == "matched-frequency" else f"imagenet-v2-{variant}": (
        Archive(
            name=f"imagenetv2-{variant}.tar.gz",
            publisher=PUBLISHER,
            digest=f"sha256:{sha256}",
            size=size,
            url=f"{URL}imagenetv2-{variant}.tar.gz",
            folders=(f"imagenetv2-{variant}-format-val",),
        ),
    )
    for variant, (size, sha256) in VARIANTS.items()
}


def matched_frequency(directory: Path, *, splits: Sequence[str] = ()) -> Source:
    """The variant that "ImageNet-V2" means: test (10,000), labels as ImageNet-1k's.

    Keys are TFDS's, `CLASS_NAME.jpeg`. Class names come from ImageNet-1k's development kit if it lies in `directory`,
    else they are the numbers. Raises ValueError if the archive is missing or its folders are not the classes.
    """
    return _imagenet_v2("imagenet-v2", directory, splits)


def threshold(directory: Path, *, splits: Sequence[str] = ()) -> Source:
    """Images that at least 70 % of the annotators chose; otherwise as `matched_frequency`."""
    return _imagenet_v2("imagenet-v2-threshold0.7", directory, splits)


def top_images(directory: Path, *, splits: Sequence[str] = ()) -> Source:
    """The images that most annotators chose; otherwise as `matched_frequency`."""
    return _imagenet_v2("imagenet-v2-top-images", directory, splits)


def _imagenet_v2(name: str, directory: Path, splits: Sequence[str]) -> Source:
    chosen(splits, ("test",), name)
    place = need(directory, ARCHIVES[name][0])
    class_names = tuple(str(label) for label in range(NUM_CLASSES))
    if present(directory, DEVKIT):
        class_names = devkit(directory).class_names
    return Source(
        name=name,
        family="lossless",
        class_names=class_names,
        records=_records(place, len(class_names)),
        keep_order=is_gzipped(place),
        where=str(place),
    )


def _records(place: Path, num_classes: int) -> Iterator[Record]:
    """By class and name; in a gzipped archive in its order."""
    found = (_labelled(member, place, num_classes) for member in members(place))
    for label, member in found if is_gzipped(place) else sorted(found, key=_by_class):
        key = f"{label}_{PurePosixPath(member.name).name}"
        yield Record(key=key, split="test", labels=(label,), read=member.read, ext="jpeg")


def _labelled(member: Member, place: Path, num_classes: int) -> tuple[int, Member]:
    folder = PurePosixPath(member.name).parent.name
    if not folder.isdecimal() or str(int(folder)) != folder or int(folder) >= num_classes:
        raise BadArchive(f"{member.name} in {place} does not lie in a folder 0 … {num_classes - 1}; get it again")
    return int(folder), member


def _by_class(labelled: tuple[int, Member]) -> tuple[int, str]:
    return labelled[0], labelled[1].name
