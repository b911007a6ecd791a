"""EuroSAT (Helber et al. 2017, the RGB version) and NWPU-RESISC45 (Cheng et al. 2017): folders of JPEGs by class.

Both have a single split, and TFDS doubles the class in the key: `Forest_Forest_687.jpg`.
"""

from pathlib import Path, PurePosixPath

from vit.data.datasets.archives import is_gzipped, members
from vit.data.datasets.download import Archive, need, present
from vit.data.datasets.vtab.dataset import Dataset, Item, part

EUROSAT = Archive(
    name="EuroSAT.zip",
    publisher="DFKI, github.com/phelber/EuroSAT; mirrored by torchgeo on the Hugging Face hub",
    digest="md5:c8fa014336c82ac7804f0398fcb19387",
    url="https://huggingface.co/datasets/torchgeo/eurosat/resolve/main/EuroSAT.zip",
    folders=("EuroSAT", "EuroSAT_RGB", "2750"),
)
RESISC45 = Archive(
    name="NWPU-RESISC45.rar",
    publisher="Northwestern Polytechnical University, https://gcheng-nwpu.github.io (OneDrive)",
    digest="md5:d824acb73957502b00efd559fc6cfbbb",
    folders=("NWPU-RESISC45", "NWPU-RESISC45.zip", "NWPU-RESISC45.tar", "NWPU-RESISC45.tar.gz"),
)
EUROSAT_CLASSES = (
    *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"),
    *("Pasture", "PermanentCrop", "Residential", "River", "SeaLake"),
)
RESISC45_CLASSES = (
    *("airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church"),
    *("circular_farmland", "cloud", "commercial_area", "dense_residential", "desert", "forest", "freeway"),
    *("golf_course", "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake"),
    *("meadow", "medium_residential", "mobile_home_park", "mountain", "overpass", "palace", "parking_lot"),
    *("railway", "railway_station", "rectangular_farmland", "river", "roundabout", "runway", "sea_ice", "ship"),
    *("snowberg", "sparse_residential", "stadium", "storage_tank", "tennis_court", "terrace"),
    *("thermal_power_station", "wetland"),
)


def eurosat(directory: Path) -> Dataset:
    """27,000 images of 64 x 64, keys `Forest_Forest_687.jpg`; raises ValueError if the archive is missing."""
    return _by_class(need(directory, EUROSAT), EUROSAT_CLASSES)


def resisc45(directory: Path) -> Dataset:
    """31,500 images of 256 x 256, keys `airplane_airplane_001.jpg`.

    Raises ValueError if there is neither the folder nor a zip or tar of it: the published RAR must be unpacked first.
    """
    folder = present(directory, Archive(name=RESISC45.folders[0], publisher="", folders=RESISC45.folders))
    place = folder or need(directory, RESISC45)
    if place.suffix == ".rar":
        raise ValueError(f"{place} is a RAR archive, which only its own tools read: unpack it there (unrar x)")
    return _by_class(place, RESISC45_CLASSES)


def _by_class(place: Path, class_names: tuple[str, ...]) -> Dataset:
    items: list[Item] = []
    for member in members(place):
        path = PurePosixPath(member.name)
        folder = path.parent.name
        if folder in class_names and path.suffix == ".jpg" and not path.name.startswith("."):
            items.append(Item(key=f"{folder}_{path.name}", label=class_names.index(folder), read=member.read))
    if not items:
        raise ValueError(f"{place} holds no folder such as {class_names[0]} with .jpg in it: it is something else")
    return Dataset(
        where=place, class_names=class_names, parts={"train": part(items)}, ext="jpg", keep_order=is_gzipped(place)
    )
