"""Measure the miniature's gates (minutes on two cores): figures as JSON and grids into a folder."""

import argparse
import json
from pathlib import Path

from prunella.miniature.checking import Drawing, check, table
from prunella.miniature.recipe import read_recipe
from prunella.scenes.generator import read_vocabulary

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--folder", type=Path, default=Path("src/prunella/bundled/miniature"))
arguments.add_argument("--scenes", default="data/scenes.yaml")
arguments.add_argument("--out", type=Path, default=Path("docs/miniature"))
arguments.add_argument("--pictures", type=int, default=500)
given = arguments.parse_args()

figures = check(given.folder, read_vocabulary(given.scenes), read_recipe(), given.out, given.pictures, Drawing())
(given.out / "check.json").write_text(json.dumps(figures, indent=1) + "\n")
print(table(figures))
