"""Small training sets and benchmarks with known copies, cut from scikit-image's pictures."""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

SIZE = 96  # pixels
PICTURES = ("chelsea", "gravel", "astronaut", "rocket", "brick", "grass", "camera", "coins")


def tiles(name: str, number: int) -> list[Image.Image]:
    picture = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
    corners = [(y, x) for y in range(0, picture.shape[0] - SIZE, SIZE) for x in range(0, picture.shape[1] - SIZE, SIZE)]
    return [Image.fromarray(picture[y : y + SIZE, x : x + SIZE]) for y, x in corners[:number]]


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=92)


def bring(home: Path) -> dict[str, tuple[str, str]]:
    """train/ with 6 copies among 61 images, and benchmarks pets/ and cifar10/; returns train: (benchmark, test)."""
    for number, name in enumerate(PICTURES):
        for place, tile in enumerate(tiles(name, 10)):
            side = "train" if place >= 3 else ("pets", "cifar10")[number % 2]
            save(tile, home / side / name / f"{name} {place}.jpg")
    mirrored = tiles("gravel", 2)[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    copies = {
        "copies/smaller.jpg": (tiles("chelsea", 1)[0].resize((64, 64)), ("pets", "chelsea/chelsea 0.jpg")),
        "copies/mirrored ü.png": (mirrored, ("cifar10", "gravel/gravel 1.jpg")),
        "copies/lossless.png": (tiles("astronaut", 3)[2], ("pets", "astronaut/astronaut 2.jpg")),
        "copies/crop.jpg": (tiles("rocket", 1)[0].crop((5, 5, 91, 91)), ("cifar10", "rocket/rocket 0.jpg")),
        "copies/dark.JPEG": (tiles("coins", 2)[1].point(lambda v: int(v * 0.8)), ("cifar10", "coins/coins 1.jpg")),
    }
    for name, (image, _) in copies.items():
        save(image, home / "train" / name)
    exact = home / "pets" / "brick" / "brick 1.jpg"
    (home / "train" / "copies" / "exact.jpg").write_bytes(exact.read_bytes())
    return {name: known for name, (_, known) in copies.items()} | {"copies/exact.jpg": ("pets", "brick/brick 1.jpg")}
