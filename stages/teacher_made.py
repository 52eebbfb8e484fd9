"""Distil from pictures that the teacher made and from rendered ones: the same student, steps, seeds and measure.

Reads what `dvc repro encode` has made here. Each unit's row is appended to --out; what has a row is not run again.
"""

import argparse
import sys
from pathlib import Path

from prunella.bench import teacher_made as bench
from prunella.bench.evidence import add_row, read_rows
from prunella.bench.setting import load_local_setting
from prunella.params import read_params

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--students", nargs="+", default=["sd-tiny"])
parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
parser.add_argument("--arms", nargs="+", default=[bench.RENDERED, bench.GENERATED])
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--images", type=int, default=400)
parser.add_argument("--inference-steps", type=int, default=10, help="of the teacher, for each picture to learn from")
parser.add_argument("--out", type=Path, default=Path("docs/evidence/generated.jsonl"))
args = parser.parse_args()

params, work_dir = read_params(), Path("work/teacher-made")
setting = load_local_setting(params)._replace(distill=params.distill.model_copy(update={"steps": args.steps}))
latents_dirs = bench.prepare_arm_latents(setting, params, args.arms, args.inference_steps, work_dir)
units = [
    bench.TrainingUnit(student, arm, seed) for seed in args.seeds for student in args.students for arm in args.arms
]
for unit in bench.select_unmeasured_units(read_rows(args.out), units, args.steps):
    row = bench.measure_unit(setting, unit, latents_dirs[unit.arm], params.filter.samples, args.images, work_dir)
    add_row(args.out, row | {"command": " ".join(["python stages/teacher_made.py", *sys.argv[1:]])})
for (student, steps), comparison in bench.compare_arms(read_rows(args.out)).items():
    print(f"{student}, {steps} steps: output error × {comparison.ratios}, composition {comparison.composition}")
