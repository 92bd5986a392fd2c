"""Draws a terminal's output as an SVG, for the README: `adumbra demo | python tools/picture.py docs/images/demo.svg`."""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

CHARACTER_PX, LINE_PX, MARGIN_PX = 8.4, 18, 20
STYLE = "font: 14px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; white-space: pre"


def picture(text: str) -> str:
    """The text in a dark frame; headings, which rules follow, stand out."""
    lines = text.rstrip("\n").expandtabs().split("\n")
    width = max(len(line) for line in lines) * CHARACTER_PX + 2 * MARGIN_PX
    height = len(lines) * LINE_PX + 2 * MARGIN_PX
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" role="img" aria-label="Terminal">',
        f'<rect width="100%" height="100%" rx="8" fill="#16181d"/><g style="{STYLE}" fill="#d7dae0">',
    ]
    for number, line in enumerate(lines):
        colour = ' fill="#7fd1b9" font-weight="bold"' if line.endswith("───") and line[:1].isdigit() else ""
        y = MARGIN_PX + (number + 0.8) * LINE_PX
        length = f' textLength="{len(line) * CHARACTER_PX:.1f}" lengthAdjust="spacingAndGlyphs"' if line.strip() else ""
        out.append(f'<text x="{MARGIN_PX}" y="{y:.1f}"{length}{colour} xml:space="preserve">{escape(line)}</text>')
    return "\n".join([*out, "</g></svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture(sys.stdin.read()), encoding="utf-8")
