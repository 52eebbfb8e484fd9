"""What holds healing back: one change each of the long training of `prunella bench heal`.

Trains on what `dvc repro encode` has made here. Each trial's row is appended to --out; what has a row is not run again.
"""

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path

from prunella.bench.evidence import known_row
from prunella.bench.healing_trials import TRIALS, trial
from prunella.bench.setting import encoded_here
from prunella.params import read_params
from prunella.pipeline.stage import silence_libraries

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--student", default="sd-small")
arguments.add_argument("--trials", nargs="+", default=list(TRIALS), choices=TRIALS)
arguments.add_argument("--seed", type=int, default=0)
arguments.add_argument("--steps", type=int, default=1000)
arguments.add_argument("--pictures", type=int, default=0, help="of the scenes of `prunella bench heal`; 0: none")
arguments.add_argument("--out", type=Path, default=Path("docs/evidence/healing-trials.jsonl"))
given = arguments.parse_args()

silence_libraries()
setting = encoded_here(read_params())
setting = setting._replace(benchmark=setting.benchmark.model_copy(update={"prompts": given.pictures}))
command = {"command": shlex.join(["python", "stages/healing_trials.py", *sys.argv[1:]])}
for name in given.trials:
    known = {"student": given.student, "trial": name, "seed": given.seed, "steps": given.steps}

    def measured(name: str) -> dict:
        return trial(setting, given.student, name, given.steps, given.seed) | command

    row = known_row(given.out, known, partial(measured, name))
    said = f", {row['composition']['value']:.3f} of the pictures right" if "composition" in row else ""
    print(f"{given.student}, {name}, {given.steps} steps: output error {row['output']:.4f}{said}", flush=True)
