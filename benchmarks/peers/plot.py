"""Draw the rates of `headrace bench engine`: ``plot.py ROWS.json OUT.svg``. Ours in colour, peers in grey."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

OURS, PEERS = "#2a6f97", "#9aa5b1"


def main(source: Path, target: Path) -> None:
    bars: dict[str, tuple[float, str]] = {}
    for row in json.loads(source.read_text()):
        if row["unit"] == "records/s" and row["ratio"] is not None:
            ours = row["figure"].split(" / ")[0]
            if row["peer"].startswith("ours"):
                continue
            bars[f"{ours} (ours)"] = (row["value"], OURS)
            bars[row["peer"]] = (row["peer_value"], PEERS)
    if not bars:
        sys.exit("no rates among the rows: nothing to draw")
    order = sorted(bars, key=lambda name: bars[name][0])
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "headrace", "font.family": "sans-serif", "font.size": 10}
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(order) + 0.9), layout="constrained")
    drawn = axes.barh(order, [bars[name][0] for name in order], color=[bars[name][1] for name in order], height=0.68)
    axes.bar_label(drawn, labels=[f"{bars[name][0]:,.0f}" for name in order], padding=4)
    axes.margins(x=0.12)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False, left=False)
    axes.set_title("records/s of one worker process, the same job on the same topic", loc="left", fontsize=11)
    figure.savefig(target, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
