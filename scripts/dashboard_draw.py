"""Draws what ``tests.monitoring.answers`` found; see ``scripts/dashboard_picture``, which runs it.

Needs matplotlib and nothing of this repository: it runs in an environment of its own. Positions, titles,
units, colours, stacks and thresholds are those of the dashboard's JSON; the rest looks as a dark
dashboard usually does.
"""

from __future__ import annotations

import json
import math
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

CANVAS, PANEL, EDGE = "#111217", "#181b1f", "#2c3035"
TEXT, FAINT = "#d8d9da", "#8e9197"
NAMED = {"green": "#56a64b", "orange": "#ff780a", "red": "#e02f44", "blue": "#3274d9", "yellow": "#f2cc0c"}
PALETTE = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#f2495c", "#8ab8ff", "#c0d8ff")
COLUMNS, COLUMN_PIXELS, ROW_PIXELS, GAP, HEAD = 24, 70, 34, 8, 60
DPI = 100


def unit_text(value: float, unit: str) -> str:
    """Return a number as people read it, in the panel's unit."""
    if unit == "s":
        for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
            if abs(value) >= size:
                return f"{value / size:.3g} {word}"
        return f"{value:.3g} s" if abs(value) >= 1 or value == 0 else f"{value * 1000:.3g} ms"
    if unit in {"bytes", "Bps"}:
        power = min(3, int(math.log(max(1.0, abs(value)), 1024)))
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}{'/s' if unit == 'Bps' else ''}"
    return f"{value:.4g}" + {"reqps": "/s", "ops": "/s"}.get(unit, "")


class Picture:
    """One figure in pixels, its origin at the top left as in the JSON."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.panels = answers["panels"]
        self.story = answers["story"]
        rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in self.panels)
        self.width, self.height = COLUMNS * COLUMN_PIXELS, rows * ROW_PIXELS + HEAD
        self.figure = plt.figure(figsize=(self.width / DPI, self.height / DPI), dpi=DPI, facecolor=CANVAS)
        begin, end = (datetime.fromtimestamp(self.story[key], UTC) for key in ("from", "to"))
        self.text(GAP + 4, 22, answers["title"], size=15, weight="bold")
        what = ", ".join(text for _, text in self.story["events"])
        told = f"{begin:%H:%M} to {end:%H:%M} UTC, real processes on a test cluster; dotted: {what}"
        self.text(GAP + 4, 44, told, size=9, color=FAINT)

    def text(self, x: float, y: float, words: str, **style: Any) -> Any:
        """Write at pixels from the top left; return what was written."""
        style = {"color": TEXT, "va": "center"} | style
        return self.figure.text(x / self.width, 1 - y / self.height, words, **style)

    def axes(self, x: float, y: float, w: float, h: float) -> Any:
        """Return axes at pixels from the top left."""
        return self.figure.add_axes(
            (x / self.width, 1 - (y + h) / self.height, w / self.width, h / self.height), facecolor="none"
        )

    def draw(self) -> None:
        """Draw every panel at its place."""
        for panel in self.panels:
            place = panel["gridPos"]
            x, y = place["x"] * COLUMN_PIXELS, place["y"] * ROW_PIXELS + HEAD
            w, h = place["w"] * COLUMN_PIXELS, place["h"] * ROW_PIXELS
            if panel["type"] == "row":
                self.text(x + GAP + 4, y + h / 2 + 2, f"▾ {panel['title']}", size=11, weight="bold")
                continue
            self._frame(x + GAP / 2, y + GAP / 2, w - GAP, h - GAP, PANEL)
            {"stat": self._stat, "timeseries": self._lines}[panel["type"]](panel, x, y, w, h)

    def _frame(self, x: float, y: float, w: float, h: float, color: str) -> None:
        corner = (x / self.width, 1 - (y + h) / self.height)
        self.figure.patches.append(
            Rectangle(
                corner, w / self.width, h / self.height, facecolor=color, edgecolor=EDGE, linewidth=0.8,
                transform=self.figure.transFigure, zorder=-1,
            )
        )  # fmt: skip

    def _stat(self, panel: dict[str, Any], x: float, y: float, w: float, h: float) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        series = panel["targets"][0]["series"]
        points = series[0]["points"] if series else []
        value = points[-1][1] if points else math.nan
        color = "green"
        for step in defaults["thresholds"]["steps"]:
            if step["value"] is None or value >= step["value"]:
                color = step["color"]
        self._frame(x + GAP / 2, y + GAP / 2, w - GAP, h - GAP, NAMED[color])
        self.text(x + GAP + 6, y + 20, panel["title"], size=9, color="white")
        words = "no data" if math.isnan(value) else unit_text(value, defaults["unit"])
        self.text(x + w / 2, y + h * 0.48, words, size=27, weight="bold", color="white", ha="center")
        if points:
            axes = self.axes(x + GAP, y + h * 0.66, w - 2 * GAP, h * 0.26)
            times, values = zip(*points, strict=True)
            axes.fill_between(times, values, min(0.0, *values), color="white", alpha=0.35, linewidth=0)
            axes.set_xlim(times[0], times[-1])
            axes.set_ylim(min(0.0, *values), max(*values, 1e-9) * 1.1)
            axes.axis("off")

    def _lines(self, panel: dict[str, Any], x: float, y: float, w: float, h: float) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        custom = defaults["custom"]
        self.text(x + GAP + 6, y + 20, panel["title"], size=9.5, weight="medium")
        axes = self.axes(x + 70, y + 36, w - 88, h - 88)
        series = [one for target in panel["targets"] for one in target["series"]]
        series = [one | {"name": one["name"] or panel["title"]} for one in series]
        fixed = {
            override["matcher"]["options"]: override["properties"][0]["value"]["fixedColor"]
            for override in panel["fieldConfig"]["overrides"]
        }
        colors = [
            NAMED[fixed[one["name"]]] if one["name"] in fixed else PALETTE[index % len(PALETTE)]
            for index, one in enumerate(series)
        ]
        drawn = "steps-post" if custom["lineInterpolation"] == "stepAfter" else "default"
        if custom["stacking"]["mode"] == "normal":
            self._stack(axes, series, colors, custom)
        else:
            for one, color in zip(series, colors, strict=True):
                times, values = _with_gaps(one["points"])
                axes.plot(times, values, color=color, linewidth=1.4, drawstyle=drawn)
                step = "post" if drawn == "steps-post" else None
                axes.fill_between(times, values, 0, color=color, alpha=0.08, linewidth=0, step=step)
        self._dress(axes, defaults)
        self._legend(series, colors, x + 20, y + h - 22, w - 30)
        if not any(one["points"] for one in series):
            axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", color=FAINT, fontsize=11)

    @staticmethod
    def _stack(axes: Any, series: list[dict[str, Any]], colors: list[str], custom: dict[str, Any]) -> None:
        times = _without_gaps(sorted({when for one in series for when, _ in one["points"]}))
        base = [0.0] * len(times)
        step = "post" if custom["lineInterpolation"] == "stepAfter" else None
        for one, color in zip(series, colors, strict=True):
            known = dict(one["points"])
            top = [below + known.get(when, 0.0) for when, below in zip(times, base, strict=True)]
            axes.fill_between(times, base, top, color=color, alpha=custom["fillOpacity"] / 100 + 0.15,
                              linewidth=0, step=step)  # fmt: skip
            style = "steps-post" if step else "default"
            shown = [value if when in known else math.nan for when, value in zip(times, top, strict=True)]
            axes.plot(times, shown, color=color, linewidth=1.2, drawstyle=style)
            base = top

    def _dress(self, axes: Any, defaults: dict[str, Any]) -> None:
        axes.set_xlim(self.story["from"], self.story["to"])
        low, high = axes.get_ylim()
        high = (
            max(high, 1.0) if all(value == 0 for line in axes.lines for value in line.get_ydata()) else high
        )
        axes.set_ylim(defaults.get("min", low), defaults["max"] * 1.08 if "max" in defaults else high)
        for when, _ in self.story["events"]:
            axes.axvline(when, color="#6e7178", linewidth=0.8, linestyle=":")
        whole = defaults.get("decimals") == 0
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=whole))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unit_text(value, defaults["unit"])))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{datetime.fromtimestamp(value, UTC):%H:%M}")
        )
        axes.grid(color=EDGE, linewidth=0.6)
        axes.tick_params(colors=FAINT, labelsize=8, length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)

    def _legend(
        self, series: list[dict[str, Any]], colors: list[str], x: float, y: float, room: float
    ) -> None:
        at = x
        for one, color in zip(series, colors, strict=True):
            name = self.text(at + 17, y, one["name"], size=8.5, color=FAINT)
            wide = name.get_window_extent().width
            if at + 17 + wide > x + room:
                name.set_text("…")
                return
            self._frame(at, y - 2, 12, 4, color)
            at += 17 + wide + 16


def _without_gaps(times: list[float]) -> list[float]:
    """Return the times with those of the usual step filled in where nobody said anything."""
    usual = min((later - earlier for earlier, later in pairwise(times)), default=1.0)
    filled = times[:1]
    for when in times[1:]:
        while when - filled[-1] > 1.5 * usual:
            filled.append(filled[-1] + usual)
        filled.append(when)
    return [*filled, *([filled[-1] + usual] if filled else [])]


def _with_gaps(points: list[list[float]]) -> tuple[list[float], list[float]]:
    """Return times and values, with a hole where nothing was known for a while."""
    times: list[float] = []
    values: list[float] = []
    usual = min((b[0] - a[0] for a, b in pairwise(points)), default=1.0)
    for when, value in points:
        if times and when - times[-1] > 1.5 * usual:
            times.append(when - usual / 2)
            values.append(math.nan)
        times.append(when)
        values.append(value)
    return times, values


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    picture = Picture(found)
    picture.draw()
    target = Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.figure.savefig(target, facecolor=CANVAS)
    # A few hundred colours are all that there is; the file is a fifth of its size.
    with Image.open(target) as image:
        small = image.convert("RGB").quantize(colors=192, dither=Image.Dither.NONE)
    small.save(target, optimize=True)
    sys.stdout.write(f"{target}\n")
