"""Distil from pictures that the teacher made and from rendered ones: the same student, steps, seeds and measure.

Reads what `dvc repro encode` has made here. Each unit's row is appended to --out; what has a row is not run again.
"""

import argparse
import sys
from pathlib import Path

from prunella.bench import teacher_made as bench
from prunella.bench.evidence import add_row, read_rows
from prunella.bench.setting import encoded_here
from prunella.params import read_params

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--students", nargs="+", default=["sd-tiny"])
arguments.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
arguments.add_argument("--arms", nargs="+", default=[bench.RENDERED, bench.GENERATED])
arguments.add_argument("--steps", type=int, default=300)
arguments.add_argument("--pictures", type=int, default=400)
arguments.add_argument("--inference-steps", type=int, default=10, help="of the teacher, for each picture to learn from")
arguments.add_argument("--out", type=Path, default=Path("docs/evidence/generated.jsonl"))
given = arguments.parse_args()

params, work = read_params(), Path("work/teacher-made")
shared = encoded_here(params)._replace(distill=params.distill.model_copy(update={"steps": given.steps}))
folders = bench.learned_from(shared, params, given.arms, given.inference_steps, work)
units = [bench.Unit(student, arm, seed) for seed in given.seeds for student in given.students for arm in given.arms]
for unit in bench.waiting(read_rows(given.out), units, given.steps):
    row = bench.measured(shared, unit, folders[unit.arm], params.filter.samples, given.pictures, work)
    add_row(given.out, row | {"command": " ".join(["python stages/teacher_made.py", *sys.argv[1:]])})
for (student, steps), found in bench.compared(read_rows(given.out)).items():
    print(f"{student}, {steps} steps: output error × {found.ratios}, composition {found.composition}")
