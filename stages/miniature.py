"""Train the miniature (hours on two cores, minutes on a GPU); `--continue` starts from a finished one."""

import argparse
from pathlib import Path

from prunella.miniature.making import make
from prunella.miniature.recipe import read_recipe
from prunella.scenes.generator import read_vocabulary

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--recipe", default="src/prunella/miniature/recipe.yaml")
arguments.add_argument("--scenes", default="data/scenes.yaml")
arguments.add_argument("--out", type=Path, default=Path("src/prunella/bundled/miniature"))
arguments.add_argument("--work", type=Path, default=Path("work/miniature"))
arguments.add_argument("--device", default="cpu")
arguments.add_argument("--continue", dest="start", type=Path)
given = arguments.parse_args()

make(read_recipe(given.recipe), read_vocabulary(given.scenes), given.out, given.work, given.device, given.start)
