"""pairs.png: the most doubtful pairs on one picture, for places that show pictures only."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from vit.dedup.report import Located, Pair, doubt

PAIRS, COLUMNS, PER_TIER = 24, 4, 3
TILE, GAP, CAPTION = 72, 8, 26  # pixels
COLOURS = 128  # of the palette, keeps the file small


def choose(pairs: Sequence[Located]) -> list[Located]:
    """Up to PAIRS pairs to look at, one per corpus image: the first few of each tier, the rest by doubt."""
    # A corpus image may show many test images (a template); its best pair says whether it was rightly removed.
    best: dict[tuple[str, str], Located] = {}
    for one in sorted(pairs, key=lambda one: doubt(one.pair), reverse=True):
        best.setdefault((one.pair.corpus, one.pair.train), one)
    doubtful = sorted(best.values(), key=lambda one: doubt(one.pair))
    tiers = sorted({one.pair.tier for one in doubtful})
    chosen = [one for tier in tiers for one in [one for one in doubtful if one.pair.tier == tier][:PER_TIER]]
    chosen += [one for one in doubtful if one not in chosen][: PAIRS - len(chosen)]
    return sorted(chosen, key=lambda one: doubt(one.pair))


def draw(
    pairs: Sequence[Pair], images: Sequence[tuple[Image.Image, Image.Image]], edits: Mapping[str, str]
) -> Image.Image:
    """A contact sheet of pairs (corpus | test) with their images; `edits` names what was planted, by corpus key."""
    width, height = 2 * TILE + GAP, TILE + CAPTION + GAP
    columns, rows = min(COLUMNS, max(1, len(pairs))), -(-len(pairs) // COLUMNS)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * height + GAP + CAPTION), "white")
    pen = ImageDraw.Draw(sheet)
    title = "corpus image | test image, most doubtful first" if pairs else "no corpus image duplicates a test image"
    pen.text((GAP, GAP), title, fill="black")
    for place, (pair, shown) in enumerate(zip(pairs, images, strict=True)):
        row, column = divmod(place, COLUMNS)
        x, y = GAP + column * (width + GAP), CAPTION + row * height
        for side, image in enumerate(shown):
            sheet.paste(image.resize((TILE, TILE), Image.Resampling.NEAREST), (x + side * (TILE + 2), y))
        how = edits.get(pair.train, pair.tier)
        pen.text((x, y + TILE), f"{how}  d={pair.distance}  s={pair.score:.2f}", fill="black")
        pen.text((x, y + TILE + 11), f"{pair.benchmark} {pair.flip}"[:26], fill="gray")
    return sheet.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
