"""Measure the miniature's gates (minutes on two cores): figures as JSON and grids into a folder."""

import argparse
import json
from pathlib import Path

from prunella.miniature.checking import SamplingSettings, check_miniature, format_gate_table
from prunella.miniature.recipe import read_miniature_recipe
from prunella.scenes.generator import read_vocabulary

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--folder", type=Path, default=Path("src/prunella/bundled/miniature"))
parser.add_argument("--scenes", default="data/scenes.yaml")
parser.add_argument("--out", type=Path, default=Path("docs/miniature"))
parser.add_argument("--images", type=int, default=500)
args = parser.parse_args()

metrics = check_miniature(
    args.folder, read_vocabulary(args.scenes), read_miniature_recipe(), args.out, args.images, SamplingSettings()
)
(args.out / "check.json").write_text(json.dumps(metrics, indent=1) + "\n")
print(format_gate_table(metrics))
