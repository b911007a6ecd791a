"""What is wrong or odd with an image before it enters a corpus: it is dealt with by a rule, or rejected with a reason.

| found | what happens |
|---|---|
| zero bytes, truncated, damaged, no image, too many pixels, 32-bit or float samples | rejected |
| a file that cannot be read; a label out of range or missing; a key that was there before | rejected |
| an extension that is not the content's | the content's extension; noted `extension` |
| CMYK, 16 bits, palette, alpha, several frames, EXIF rotation | decoded by the rules of vit.data.pictures; noted |
| the same bytes as an earlier image | kept, since official data sets have such; noted `duplicate` |

Bytes are never changed: what is noted is found in the column `notes` of the index. Where train and val are cut, no
copy of a training image is in val.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator

from PIL import Image

from vit.data.pictures import EXTENSIONS, open_image, to_rgb
from vit.data.record import Record

NOTES = {
    "extension": "named after another format",
    "cmyk": "CMYK, converted to RGB",
    "16-bit": "16 bits a channel, the high byte is used",
    "palette": "palette colours",
    "alpha": "alpha channel or transparent colour, dropped",
    "animated": "several frames, the first is used",
    "rotated": "EXIF asks for a rotation, not applied",
    "duplicate": "same bytes as an earlier image",
}
REPEATS = "repeats a key (an earlier image has the same)"
_ORIENTATION = 274  # EXIF tag; 1 is upright
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the bytes of an image say."""

    width: int
    height: int
    ext: str  # as the source names it if that fits the content
    notes: tuple[str, ...]  # words of NOTES


def examine(data: bytes, ext: str) -> Facts:
    """Decode all of an image; raises UnreadableImage with the reason to reject it."""
    image = open_image(data)
    extensions = EXTENSIONS[str(image.format)]
    right = ext.lower() in extensions
    notes = [*_of_header(image, data), *(() if right or not ext else ("extension",))]
    rgb = to_rgb(image)  # before anything else is asked of it: after a failed attempt Pillow returns black pixels
    notes += _of_decoded(image)
    return Facts(
        width=rgb.width,
        height=rgb.height,
        ext=ext.lower() if right else extensions[0],
        notes=tuple(note for note in NOTES if note in notes),
    )


def label_problem(record: Record, *, num_classes: int, multi_label: bool) -> str:
    """Why a record is to be rejected, as far as its labels tell; "" for nothing."""
    wrong = [label for label in record.labels if not 0 <= label < num_classes]
    if wrong:
        return f"has an unusable label ({wrong[0]} is not in 0 … {num_classes - 1})"
    return "has no label" if not record.labels and num_classes and not multi_label else ""


def is_usable_key(key: str) -> bool:
    """True if tar, webdataset and any file system take `key` as it is."""
    return bool(_KEY.fullmatch(key))


def _of_header(image: Image.Image, data: bytes) -> Iterator[str]:
    mode, info = image.mode, image.info
    if mode == "CMYK":
        yield "cmyk"
    if mode == "I" or mode.startswith("I;16") or (image.format == "PNG" and data[24:25] == b"\x10"):  # IHDR's bit depth
        yield "16-bit"
    if mode in ("P", "PA") and image.format != "GIF":  # where it goes without saying
        yield "palette"
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in info:
        yield "alpha"


def _of_decoded(image: Image.Image) -> Iterator[str]:
    """What lies beside the picture itself; damage there is no reason to lose it."""
    with contextlib.suppress(Exception):  # on damaged bytes a decoder may raise anything
        if image.format != "MPO" and int(getattr(image, "n_frames", 1)) > 1:
            yield "animated"
    with contextlib.suppress(Exception):
        if image.getexif().get(_ORIENTATION) not in (None, 1):
            yield "rotated"
