"""Train the miniature (hours on two cores, minutes on a GPU); `--continue` starts from a finished one."""

import argparse
from pathlib import Path

from prunella.miniature.making import train_miniature
from prunella.miniature.recipe import read_miniature_recipe
from prunella.scenes.generator import read_vocabulary

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--recipe", default="src/prunella/miniature/recipe.yaml")
parser.add_argument("--scenes", default="data/scenes.yaml")
parser.add_argument("--out", type=Path, default=Path("src/prunella/bundled/miniature"))
parser.add_argument("--work", type=Path, default=Path("work/miniature"))
parser.add_argument("--device", default="cpu")
parser.add_argument("--continue", dest="start", type=Path)
args = parser.parse_args()

train_miniature(
    read_miniature_recipe(args.recipe), read_vocabulary(args.scenes), args.out, args.work, args.device, args.start
)
