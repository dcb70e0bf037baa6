"""Cuts the two fonts of the PNG figures out of Liberation Sans 2 (needs fonttools and the fonts' files).

    python scripts/subset_font.py /usr/share/fonts/truetype/liberation2

The licence reserves the name `Liberation` for the originals, so that the subsets are called `Sweep Sans`. Their
ascent and descent are set to 1.24 em in all, because plotters divides font sizes by 1.24 for SVG: both kinds of figure
then show letters of one size.
"""

import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

OUT = Path(__file__).parent.parent / "assets" / "font"
# Basic Latin, Latin-1, Greek, and what figures need of punctuation, arrows and operators.
TEXT = [*range(0x20, 0x7F), *range(0xA0, 0x100), *range(0x391, 0x3CA)]
TEXT += [ord(c) for c in "–—‘’“”…•†‡′″→←↑↓−±×·÷≈≠≤≥∞√∑∂∆∅₀₁₂₃"]

for style in ("Regular", "Bold"):
    font = TTFont(Path(sys.argv[1]) / f"LiberationSans-{style}.ttf", recalcTimestamp=False)
    options = subset.Options()
    options.hinting = False
    options.layout_features = ["kern"]
    options.legacy_kern = True
    options.name_IDs = [0, 1, 2, 3, 4, 5, 6, 13, 14]
    options.drop_tables += ["DSIG", "FFTM"]
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=TEXT)
    subsetter.subset(font)
    for record in font["name"].names:
        text = record.toUnicode()
        if record.nameID in (1, 3, 4, 6):
            font["name"].setName(text.replace("Liberation", "Sweep"), record.nameID, record.platformID, record.platEncID, record.langID)
    em = font["head"].unitsPerEm
    ascent, descent = round(0.98 * em), -round(0.26 * em)
    font["hhea"].ascent, font["hhea"].descent, font["hhea"].lineGap = ascent, descent, 0
    font["OS/2"].sTypoAscender, font["OS/2"].sTypoDescender, font["OS/2"].sTypoLineGap = ascent, descent, 0
    path = OUT / f"SweepSans-{style}.ttf"
    font.save(path)
    print(path.name, path.stat().st_size, "bytes;", [n.toUnicode() for n in font["name"].names if n.nameID in (1, 4, 6, 13)][:4])
