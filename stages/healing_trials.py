"""Causes that hold healing back: one change each of the long training of `prunella bench heal`.

Trains on what `dvc repro encode` has made here. Each trial's row is appended to --out; what has a row is not run again.
"""

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path

from prunella.bench.evidence import load_or_measure_row
from prunella.bench.healing_trials import TRIALS, run_healing_trial
from prunella.bench.setting import load_local_setting
from prunella.params import read_params
from prunella.pipeline.stage import silence_libraries

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--student", default="sd-small")
parser.add_argument("--trials", nargs="+", default=list(TRIALS), choices=TRIALS)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--images", type=int, default=0, help="of the scenes of `prunella bench heal`; 0: none")
parser.add_argument("--out", type=Path, default=Path("docs/evidence/healing-trials.jsonl"))
args = parser.parse_args()

silence_libraries()
setting = load_local_setting(read_params())
setting = setting._replace(benchmark=setting.benchmark.model_copy(update={"prompts": args.images}))
row_metadata = {"command": shlex.join(["python", "stages/healing_trials.py", *sys.argv[1:]])}
for name in args.trials:
    identity = {"student": args.student, "trial": name, "seed": args.seed, "steps": args.steps}

    def measure_trial(name: str) -> dict:
        return run_healing_trial(setting, args.student, name, args.steps, args.seed) | row_metadata

    row = load_or_measure_row(args.out, identity, partial(measure_trial, name))
    composition_text = f", {row['composition']['value']:.3f} of the pictures right" if "composition" in row else ""
    print(f"{args.student}, {name}, {args.steps} steps: output error {row['output']:.4f}{composition_text}", flush=True)
