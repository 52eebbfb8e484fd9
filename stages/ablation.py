"""Which part of distillation buys what, on what `make repro` has encoded: every variant, student and seed (an hour).

With --steps: how far so many steps get, in place of the variants. What was interrupted goes on where it stopped.
"""

import argparse
import json
from pathlib import Path

from prunella.bench.ablation import VARIANTS, ablation, by_steps, rows
from prunella.bench.setting import encoded_here
from prunella.params import read_params
from prunella.reporting.summary import format_table

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--students", nargs="+", default=["sd-small", "sd-tiny"])
arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
arguments.add_argument("--steps", nargs="+", type=int)
arguments.add_argument("--out", type=Path, default=Path("docs/ablation.json"))
given = arguments.parse_args()

params = read_params()
shared = encoded_here(params)
variants = by_steps(given.steps, params.distill) if given.steps else VARIANTS
results = ablation(shared, variants, given.students, given.seeds, Path("work/ablation"))
given.out.write_text(json.dumps(results, indent=1) + "\n")
print(format_table(rows(results)))
