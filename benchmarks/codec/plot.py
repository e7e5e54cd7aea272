"""The speeds as bars, with the ceilings of the machine as lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from benchmarks.codec.parts import CEILING, Bar

_PANELS = {
    "encode": "Encode, tokens a second",
    "decode": "Decode, tokens a second, 4,096 in a call",
}
_COLOURS = {"normals": "#4c78a8", "activations": "#f58518"}
_HEIGHT = 0.38  # of a bar; two of them stand at a label
_SETTINGS: Any = {
    "svg.hashsalt": "codec",
    "font.size": 8,
    "axes.spines.top": False,
}  # same bytes again


def draw(bars: Sequence[Bar], target: Path) -> None:
    """Write the plot as SVG.

    Args:
        bars: of the panels above.
        target: the file.
    """
    panels = [[bar for bar in bars if bar.panel == name] for name in _PANELS]
    heights = [max(1, len({bar.label for bar in panel})) for panel in panels]
    with mpl.rc_context(_SETTINGS):
        canvas = Canvas(figsize=(8, 1.5 + 0.32 * sum(heights)), layout="constrained")
        axes = canvas.subplots(len(_PANELS), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axis, title, panel in zip(axes, _PANELS.values(), panels, strict=True):
            _draw_panel(axis, panel)
            axis.set_title(title, loc="left")
        axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
        target.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(target, format="svg", metadata={"Date": None})


def _draw_panel(axis: Axes, bars: Sequence[Bar]) -> None:
    ceilings = [bar for bar in bars if bar.label.startswith(CEILING)]
    rest = [bar for bar in bars if bar not in ceilings]
    labels = list(dict.fromkeys(bar.label for bar in rest))
    for shift, (data, colour) in zip((-0.5, 0.5), _COLOURS.items(), strict=True):
        mine = [bar for bar in rest if bar.data == data]
        places = [labels.index(bar.label) + shift * _HEIGHT for bar in mine]
        values = [bar.figure.value for bar in mine]
        axis.barh(places, values, _HEIGHT, color=colour, label=data)
        for place, bar in zip(places, mine, strict=True):
            text = f" {bar.figure.value:,.0f}"
            axis.annotate(text, (bar.figure.high, place), va="center", fontsize=7)
            axis.plot([bar.figure.low, bar.figure.high], [place, place], color="black", lw=0.8)
    for bar in ceilings:
        axis.axvline(bar.figure.value, color=_COLOURS[bar.data], ls="--", lw=0.8)
    for label in dict.fromkeys(bar.label for bar in ceilings):
        place = min(bar.figure.value for bar in ceilings if bar.label == label)
        name = label.removeprefix(CEILING) + " "
        axis.text(place, 0.01, name, transform=axis.get_xaxis_transform(), ha="right", fontsize=7)
    axis.set_xscale("log")
    axis.margins(x=0.12)
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
