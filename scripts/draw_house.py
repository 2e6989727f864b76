"""Draw the package as a house: docs/house.svg, a floor for each import layer of pyproject.toml, a box for each wing and stage.

python scripts/draw_house.py            # writes it
python scripts/draw_house.py --check    # exit 1 where the drawing differs from the code
"""

import sys
import textwrap
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DRAWING = ROOT / "docs" / "house.svg"
WIDTH, MARGIN, GAP, LINE, LETTER = 960, 12, 10, 15, 7.1
WRAP = 34  # letters of a line of module names
STYLE = """
text { font: 400 11.5px ui-monospace, "SF Mono", Menlo, Consolas, monospace; fill: #535b63; }
.name { font: 600 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1b1f23; }
.floor { fill: none; stroke: #c9ced3; stroke-dasharray: 2 4; }
.wing { fill: #fff; stroke: #8a939b; stroke-width: 1.4; } .stage { fill: #e4eff5; stroke: #0a5a83; stroke-width: 1.4; }
@media (prefers-color-scheme: dark) {
  text { fill: #a6afb7; } .name { fill: #e8eaec; } .floor { stroke: #3a4249; }
  .wing { fill: #1a1e22; stroke: #7b858e; } .stage { fill: #16303f; stroke: #7fc4ea; }
}
"""


def floors() -> list[list[str]]:
    """The names of each import layer, from the top down."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [sorted(name.strip(" ()") for name in layer.split("|")) for layer in layers]


def modules(name: str) -> list[str] | None:
    """The modules of a wing; None where `name` is a single module."""
    folder = ROOT / "mlloop" / name
    if not folder.is_dir():
        return None
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def stages() -> set[str]:
    """The stages, by their notebooks."""
    return {path.stem.split("_", 1)[1] for path in (ROOT / "nbs").glob("*.ipynb")}


def svg() -> str:
    """The drawing."""
    parts, top = [], MARGIN
    for names in floors():
        left, tallest, began = 2.0 * MARGIN, 0.0, top
        for name in sorted(names, key=lambda name: (modules(name) is None, name)):
            lines = textwrap.wrap("  ".join(modules(name) or []), WRAP)
            longest = max([len(line) * LETTER for line in lines] + [len(name) * 8.2])
            width, height = longest + 22, 30 + LINE * len(lines) - (2 if not lines else 0)
            if left + width > WIDTH - 2 * MARGIN:
                left, top, tallest = 2.0 * MARGIN, top + tallest + GAP, 0.0
            kind = "stage" if name in stages() else "wing"
            parts.append(
                f'<rect class="{kind}" x="{left:.0f}" y="{top + 8:.0f}" width="{width:.0f}" height="{height}" rx="5"/>'
                f'<text class="name" x="{left + 11:.0f}" y="{top + 27:.0f}">{escape(name)}</text>'
            )
            for number, line in enumerate(lines):
                place = f'x="{left + 11:.0f}" y="{top + 44 + LINE * number:.0f}"'
                parts.append(f'<text {place} xml:space="preserve">{escape(line)}</text>')
            left, tallest = left + width + GAP, max(tallest, height)
        top += tallest + 16
        place = f'x="{MARGIN}" y="{began:.0f}" width="{WIDTH - 2 * MARGIN}" height="{top - began:.0f}"'
        parts.append(f'<rect class="floor" {place} rx="8"/>')
        top += 8
    said = "; ".join(", ".join(names) for names in floors())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + MARGIN:.0f}" role="img" aria-labelledby="t d">\n'
        f'<title id="t">The package mlloop, floor by floor</title>\n<desc id="d">From the top: {escape(said)}.</desc>\n'
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if DRAWING.read_text(encoding="utf-8") != svg():
            sys.exit("docs/house.svg differs from the code. Draw it again: python scripts/draw_house.py")
    else:
        DRAWING.write_text(svg(), encoding="utf-8")
