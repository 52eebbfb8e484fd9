"""`prunella bench every-plan`, `bench train-plans`: what the choice of a plan is worth, on the bundled teacher."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prunella.cli.arguments import STUDENT, Commands, add_command, named_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunella.planning.cost_model import CostTable
    from prunella.planning.units import Unit
    from prunella.pruning.plan import Plan

HAND_MADE = ("sd-small", "bk-sdm-small", "sd-tiny")
HELDOUT = 32  # pairs that a plan is measured on


def register(kinds: Commands) -> None:
    """Add these commands to those of `prunella bench`."""
    about = "measure every plan of the teacher before training, or a sample of those whose attention may go"
    every = add_command(kinds, "every-plan", about, _every)
    _shared(every, Path("docs/evidence/plans-every.csv"))
    every.add_argument("--pairs", type=int, default=HELDOUT, help="held-out pairs")
    every.add_argument("--attention", type=int, default=0, help="so many plans more, with a stage without attention")
    every.add_argument("--most", default="sd-small", help="of those, a student whose parameters none exceeds")
    train = add_command(kinds, "train-plans", "train students by their plans, alike, and measure them", _train)
    _shared(train, Path("docs/evidence/plans-trained.jsonl"))
    train.add_argument("students", nargs="+", help=STUDENT)
    train.add_argument("--steps", type=int, required=True)
    train.add_argument("--seeds", type=int, nargs="+", default=[0])
    train.add_argument("--prompts", type=int, default=0, help="pictures drawn and judged of each student")


def _shared(command: argparse.ArgumentParser, out: Path) -> None:
    command.add_argument("--latents", type=Path, default=Path("data/latents"), help="what the encode stage has made")
    command.add_argument("--out", type=Path, default=out, help="file that rows are added to")


def _every(given: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    import numpy as np

    from prunella.bench.every_plan import every, measure_every, read, sampled
    from prunella.bench.plan_figures import normalised
    from prunella.compute.resume import work_root
    from prunella.latents.encoders import open_latents
    from prunella.models.pipeline import load_scheduler, load_unet
    from prunella.params import read_params
    from prunella.planning.cost_model import count_costs
    from prunella.planning.importance import OutputError
    from prunella.planning.solver import removable_levels
    from prunella.planning.units import list_units, plan_without
    from prunella.storage.files import json_digest
    from prunella.training.data import heldout_batches

    params = read_params()
    folder = Path(params.teacher.path)
    teacher, scheduler = load_unet(folder), load_scheduler(folder)
    heldout = open_latents(given.latents, folder, "cpu")[1]
    last = scheduler.config.num_train_timesteps
    batches = heldout_batches(heldout, params.encode.batch_size, last, np.arange(given.pairs))
    work = work_root() / "bench" / json_digest([str(given.latents), given.pairs])
    measure = OutputError(teacher, "sd", scheduler, batches, work)
    config = dict(teacher.config)
    there = list_units("sd", config, may_drop_attention=False)
    prices = count_costs("sd", config, removable_levels(there), (config["sample_size"], config["sample_size"]))
    students = list(every(there, 4))
    if given.attention:
        most, params_of = prices["params"].cost_of_plan(named_plan(given.most)), prices["params"].cost_of_plan
        wide = every(list_units("sd", config, may_drop_attention=True), 4)
        more = [each for each in wide if any(getattr(unit, "plain", ()) for unit in each)]
        students += sampled([each for each in more if params_of(plan_without("sd", each)) <= most], given.attention, 0)
    measure_every(students, measure, prices, given.out)
    errors = dict(zip(there, measure.measure_many([[unit] for unit in there]), strict=True))
    alike = normalised(read(given.out), errors, list(every(there, 4)))
    print(f"with each bin of timesteps counting alike: Spearman {alike:.4f}")
    _told(given.out, there, prices)


def _told(path: Path, there: Sequence[Unit], prices: dict[str, CostTable]) -> None:
    """Print what the file says, and draw it beside."""
    from prunella.bench.every_plan import code, read
    from prunella.bench.plan_figures import correlation, picture, summary, walked
    from prunella.pruning.plan import STUDENTS
    from prunella.reporting.summary import format_table

    rows = read(path)
    made = {name: plan for name, plan in STUDENTS.items() if name in HAND_MADE}
    depth = [row for row in rows if not any(word[-1] in "du" for word in row["plan"].split()[:-1])]
    for kind, some in (("of depth alone", depth), ("in all", rows)):
        print(f"{len(some):,} plans {kind}: Spearman {correlation(some):.3f}")
    for what in ("params", "macs"):
        print(format_table(summary(rows, made, what)))
        print(format_table(walked(rows, made, there, prices[what])))
    marked = {code(plan): name for name, plan in made.items()}
    path.with_suffix(".svg").write_text(picture(rows, marked), encoding="utf-8")


def _train(given: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.bench.setting import Setting
    from prunella.bench.trained_plans import foretold, train_plans
    from prunella.compute.device import resolve_device
    from prunella.params import read_params
    from prunella.scenes.generator import read_vocabulary

    params = read_params()
    warmup = min(params.distill.lr_warmup_steps, given.steps // 10)
    setting = Setting(
        params.distill.model_copy(update={"steps": given.steps, "lr_warmup_steps": warmup}),
        params.benchmark.model_copy(update={"prompts": given.prompts}),
        Path(params.teacher.path),
        given.latents,
        read_vocabulary(params.filter.path),
        resolve_device(params.runtime),
    )
    plans: dict[str, Plan] = {Path(name).stem: named_plan(name) for name in given.students}
    rows = train_plans(setting, plans, given.seeds, given.out)
    if len(plans) >= 5:
        print(
            "errors before and after training: {plans} plans, rank {rank:.2f} ({low:.2f} to {high:.2f})".format_map(
                foretold(rows)
            )
        )
