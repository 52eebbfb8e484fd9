"""The effect of each part of distillation, on what `make repro` has encoded: every variant, student and seed (an hour).

With --steps: how far so many steps get, in place of the variants. Interrupted work goes on where it stopped.
"""

import argparse
import json
from pathlib import Path

from prunella.bench.ablation import VARIANTS, build_ablation_table, make_step_variants, run_ablation
from prunella.bench.setting import load_local_setting
from prunella.params import read_params
from prunella.reporting.summary import format_table

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--students", nargs="+", default=["sd-small", "sd-tiny"])
parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
parser.add_argument("--steps", nargs="+", type=int)
parser.add_argument("--out", type=Path, default=Path("docs/ablation.json"))
args = parser.parse_args()

params = read_params()
setting = load_local_setting(params)
variants = make_step_variants(args.steps, params.distill) if args.steps else VARIANTS
results = run_ablation(setting, variants, args.students, args.seeds, Path("work/ablation"))
args.out.write_text(json.dumps(results, indent=1) + "\n")
print(format_table(build_ablation_table(results)))
