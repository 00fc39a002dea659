"""Every benchmark in one run, side by side, with versions, CPU flags and ratios.

    python -m loadtests.benchmarks [--only PART …] [--seconds 8] [--passes 3] [--output FILE]

Parts: preprocessing, masks, tiles, sizes, gateway, online, lanes, detectors, explanations, training. Over half an hour
on 2 cores. Run it on an idle machine: a pass whose in-process limit drifts by more than 10 % does not count, and
without any pass that counts there is no row.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests.benchmarks.detectors import measure_detectors, measure_image_sizes, measure_tiles
from loadtests.benchmarks.explain_lane import measure_explain_lane
from loadtests.benchmarks.explanations import measure_explanations
from loadtests.benchmarks.gateway_overhead import measure_overhead
from loadtests.benchmarks.images import draw_jpegs
from loadtests.benchmarks.instance_masks import measure_instance_masks
from loadtests.benchmarks.machine import describe_machine
from loadtests.benchmarks.online import measure_online
from loadtests.benchmarks.preprocessing import measure_preprocessing
from loadtests.benchmarks.training_speed import measure_training

PARTS = (
    *("preprocessing", "masks", "tiles", "sizes", "gateway", "online", "lanes"),
    *("detectors", "explanations", "training"),
)
NUM_IMAGES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write everything as JSON")
    arguments = parser.parse_args()
    console = Console(width=150)
    result: dict[str, Any] = {"machine": describe_machine()}
    for name, value in result["machine"].items():
        console.print(f"{name:>24}  {value}", highlight=False)
    images = draw_jpegs(NUM_IMAGES)
    if "preprocessing" in arguments.only:
        result["preprocessing"] = [asdict(row) for row in measure_preprocessing(images)]
        _print(console, "Bytes to network input, 1 thread, against Pillow + torchvision", result["preprocessing"])
    if "masks" in arguments.only:
        result["masks"] = [asdict(row) for row in measure_instance_masks(arguments.passes)]
        _print(console, "Raw instance masks to polygons, 1 thread, against full-size masks", result["masks"])
    if "tiles" in arguments.only:
        result["tiles"] = [asdict(row) for row in measure_tiles(images[0], arguments.passes)]
        _print(console, "Tiles through the network together, against one by one", result["tiles"])
    if "sizes" in arguments.only:
        result["sizes"] = [asdict(row) for row in measure_image_sizes(images[0], arguments.passes)]
        _print(console, "Mask R-CNN end to end, 1920x1080 (large) over 640x480 (small)", result["sizes"])
    if "gateway" in arguments.only:
        rows = measure_overhead(arguments.seconds, arguments.passes)
        result["gateway"] = [
            {
                "clients": row.concurrency,
                "direct_p50_ms": row.direct.p50_ms,
                "gateway_p50_ms": row.through.p50_ms,
                "added_p50_ms": row.added_p50_ms,
                "added_p99_ms": row.added_p99_ms,
                "cpu_us_per_request": row.cpu_us,
                "requests_per_s": row.through.requests_per_s,
            }
            for row in rows
        ]
        _print(console, "What the gateway adds, bodies of 100 KB", result["gateway"])
    if "online" in arguments.only:
        result["online"] = []
        for precision in ("f32", "bf16"):
            online = measure_online(
                images, precision, arguments.seconds, arguments.passes, lambda text: print(text, file=sys.stderr)
            )
            rows = [asdict(row) for row in online]
            _print(console, f"ResNet-50 at 224, {precision}, base64 JSON bodies (stock: raw JPEG bodies)", rows)
            result["online"] += rows
    if "lanes" in arguments.only:
        lanes = measure_explain_lane(images, arguments.seconds, lambda text: print(text, file=sys.stderr))
        result["lanes"] = [asdict(row) for row in lanes]
        _print(console, "Predictions, ResNet-50, alone and while 20 explanations are queued", result["lanes"])
    if "detectors" in arguments.only:
        result["detectors"] = []
        for served in measure_detectors(
            images, arguments.seconds, arguments.passes, lambda text: print(text, file=sys.stderr)
        ):
            rows = [asdict(row) for row in served]
            _print(console, "Detection and segmentation, f32, over the network alone in process", rows)
            result["detectors"] += rows
    if "explanations" in arguments.only:
        result["explanations"] = [asdict(row) for row in measure_explanations(arguments.passes)]
        _print(console, "Explanations, 1 thread, processor time, against saliency and captum", result["explanations"])
    if "training" in arguments.only:
        result["training"] = [asdict(row) for row in measure_training(images, arguments.passes)]
        _print(console, "Training at 224, against torchvision's transforms and a DataLoader", result["training"])
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def _print(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        console.print(f"{title}: no pass counted")
        return
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*map(_text, row.values()))
    console.print(table)


def _text(value: Any) -> str:
    """Three digits of a float; empty for None."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
