"""To the same quality: the published procedure against ours, from the same pruned student on the same encoded pairs.

The published one has its steps; where it ends is the goal. Ours is trained for one number of steps after another, each
a training of its own from the first step to the end of its schedule, until one ends with a held-out output error that
is no higher. What a step takes is timed apart, both procedures in turns.

A row is one training, or one round of turns; it is written as soon as it is known and never measured again.
"""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scipy.stats import t as student_t

from prunella.bench.baselines import Ours, Published
from prunella.bench.evidence import Row, known_row
from prunella.bench.setting import Setting
from prunella.bench.train_step import timed
from prunella.bench.workload import Workload, encoder_flops
from prunella.compute.device import Placement
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.models.reference_configs import load_teacher_config
from prunella.params import Distill
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import STUDENTS
from prunella.pruning.prune import prune
from prunella.training.data import heldout_batches, training_batches
from prunella.training.loop import train
from prunella.training.losses import OUTPUT, TASK, Distillation
from prunella.training.validate import evaluate_loss

PUBLISHED, OURS, TURNS = "published", "ours", "turns"
RATE = 5e-5  # as published
ENCODING = "published, encoding"  # in every step, as the scripts do
TIMED = 3  # steps of a turn
MEASURED = 32  # held-out pairs at once

# BK-SDM's kd_train_text_to_image.py (Nota-NetsPresso/BK-SDM) and its commands. The average of weights that those keep
# (decay 0.9999) would still be the pruned student after so few steps: in its favour there is none.
AS_PUBLISHED = {
    "task_weight": 1.0, "output_weight": 1.0, "feature_weight": 1.0, "feature_normalization": "none",
    "gradient_accumulation_steps": 1, "optimizer": "adamw", "lr_warmup_steps": 0, "lr_scheduler": "constant",
    "weight_decay": 0.01,
    "betas": (0.9, 0.999), "eps": 1e-8, "max_grad_norm": 1.0, "ema_decay": 0.0, "snr_gamma": None, "noise_offset": 0.0,
    "caption_dropout": 0.0,
}  # fmt: skip


class Race(NamedTuple):
    """What runs: the published steps of a batch, rates to try beside the published one; our lengths."""

    steps: int
    batch_size: int
    rates: Sequence[float]
    lengths: Sequence[int]  # in steps, ascending
    rounds: int  # of turns

    def published(self, ours: Distill, rate: float) -> Distill:
        changes = {"steps": self.steps, "batch_size": self.batch_size, "learning_rate": rate}
        return ours.model_copy(update=AS_PUBLISHED | changes)

    def ours(self, ours: Distill, steps: int) -> Distill:
        """As `ours`, in so many steps; of a short training a tenth is warm-up."""
        return ours.model_copy(update={"steps": steps, "lr_warmup_steps": min(ours.lr_warmup_steps, steps // 10)})


class Course(NamedTuple):
    """Where a student races, and the file of rows; `told` is written into those that are new."""

    setting: Setting
    student: str
    out: Path
    told: Row

    def trained(self, arm: str, seed: int, settings: Distill) -> Row:
        """The row of a training; it runs where there is none."""
        settings = settings.model_copy(update={"seed": seed})
        name = {"student": self.student, "arm": arm, "seed": seed, "settings": _decided(self.setting, settings)}
        title = f"{self.student}, {arm}, rate {settings.learning_rate:g}, {settings.steps} steps, seed {seed}"
        return known_row(self.out, name, lambda: trained(self.setting, self.student, settings, title) | self.told)

    def turn(self, number: int, what: Race) -> Row:
        """The row of a round of turns."""
        theirs = what.published(self.setting.distill, RATE)
        name = {"student": self.student, "arm": TURNS, "round": number, "settings": _decided(self.setting, theirs)}
        return known_row(self.out, name, lambda: turn(self.setting, self.student, theirs) | self.told)


def race(course: Course, seeds: Sequence[int], what: Race) -> Iterator[Row]:
    """Yield the rows: the published procedure at each rate on the first seed, then all on every seed, then the turns.

    On every seed the published procedure has its published rate and the one that ended lowest on the first seed, and
    ours runs until it has reached the lower end of the two.
    """
    distill, first = course.setting.distill, seeds[0]
    swept = {
        rate: course.trained(PUBLISHED, first, what.published(distill, rate))
        for rate in dict.fromkeys([RATE, *what.rates])
    }
    yield from swept.values()
    best = min(swept, key=lambda rate: swept[rate][OUTPUT])
    for seed in seeds:
        rates = dict.fromkeys([RATE, best])
        ends = [course.trained(PUBLISHED, seed, what.published(distill, rate)) for rate in rates]
        yield from ends if seed != first else []
        goal = min(end[OUTPUT] for end in ends)
        for steps in what.lengths:
            yield (ended := course.trained(OURS, seed, what.ours(distill, steps)))
            if ended[OUTPUT] <= goal:
                break
    for number in range(what.rounds):
        yield course.turn(number, what)


def trained(setting: Setting, student: str, settings: Distill, title: str) -> Row:
    """Train and measure: examples, counted operations, processor seconds, errors on all held-out pairs at the end."""
    teacher, scheduler = load_unet(setting.teacher, setting.device), load_scheduler(setting.teacher)
    plan, last = STUDENTS[student], scheduler.config.num_train_timesteps
    unet = prune(teacher, plan)
    learned, heldout = open_latents(setting.latents, setting.teacher, setting.device)
    loss = Distillation(teacher, feature_pairs(plan, settings.features), scheduler, settings)
    began = time.process_time()
    for _ in train(unet, loss, training_batches(learned, settings.batch_size, settings, last), settings, title=title):
        pass
    seconds = time.process_time() - began
    terms = evaluate_loss(unet.eval(), loss, heldout_batches(heldout, MEASURED, last))
    examples, case = settings.steps * settings.batch_size, _workload(setting, student, settings)
    return {
        "learning_rate": settings.learning_rate,
        "batch_size": settings.batch_size,
        "steps": settings.steps,
        "examples": examples,
        "tflop": round(examples * case.flops() / 1e12, 4),
        "tflop_encoders": round(examples * encoder_flops(case) / 1e12, 4),  # had they run in every step
        "cpu_seconds": round(seconds, 1),
        **{name: float(f"{terms[name]:.6g}") for name in (TASK, OUTPUT)},
    }


def turn(setting: Setting, student: str, theirs: Distill) -> Row:
    """Seconds a step of ours, of the published one from encoded pairs, and of that as it is, with the encoders."""
    mine, other = (_workload(setting, student, settings) for settings in (setting.distill, theirs))
    ways = {OURS: (Ours, mine), PUBLISHED: (Ours, other), ENCODING: (Published, other)}
    taken = {name: round(timed(way, case, TIMED, warmup=1).seconds, 4) for name, (way, case) in ways.items()}
    return {"batch_size": theirs.batch_size, **taken}


def _workload(setting: Setting, student: str, settings: Distill) -> Workload:
    config, place = load_teacher_config(str(setting.teacher)), Placement(setting.device)
    return Workload(STUDENTS[student], config, settings, place, encoders=setting.teacher)


def _decided(setting: Setting, settings: Distill) -> str:
    return setting.digest(settings.model_dump(exclude={"storage"}))


class Finish(NamedTuple):
    """Where a published procedure ends, and what it took: per seed its row, and ours that ended no higher, or None."""

    student: str
    steps: int
    batch_size: int
    rate: float
    pairs: list[tuple[Row, Row | None]]
    turns: list[Row]

    @property
    def reached(self) -> list[tuple[Row, Row]]:
        return [(theirs, mine) for theirs, mine in self.pairs if mine]

    def times(self, what: str) -> list[float]:
        """How many times as many "steps", "examples", "tflop" or "cpu_seconds" the published one took, by seed."""
        return [theirs[what] / mine[what] for theirs, mine in self.reached]

    def slower(self, way: str) -> list[float]:
        """How many times as many seconds, by the median of the rounds' own ratios; [] where no turns were taken."""
        if not self.turns:
            return []
        pace = statistics.median(row[way] / row[OURS] for row in self.turns)
        return [times * pace for times in self.times("steps")]


def finishes(rows: list[Row]) -> list[Finish]:
    """The finishes: at the published rate, and at the rate that ended lowest on the first seed where it is another."""
    found = []
    theirs = [row for row in rows if row["arm"] == PUBLISHED]
    for student, steps, batch in dict.fromkeys((row["student"], row["steps"], row["batch_size"]) for row in theirs):
        kind = {"student": student, "steps": steps, "batch_size": batch}
        ends = [row for row in theirs if row.items() >= kind.items()]
        ours = [row for row in rows if row["arm"] == OURS and row["student"] == student]
        turns = [
            row for row in rows if row["arm"] == TURNS and row["student"] == student and row["batch_size"] == batch
        ]
        best = min((row for row in ends if row["seed"] == ends[0]["seed"]), key=lambda row: row[OUTPUT])
        for rate in dict.fromkeys([RATE, best["learning_rate"]]):
            pairs = [(row, _first(ours, row)) for row in ends if row["learning_rate"] == rate]
            found.append(Finish(student, steps, batch, rate, pairs, turns))
    return found


def _first(ours: list[Row], end: Row) -> Row | None:
    """The shortest of our trainings of that seed that ended no higher."""
    reached = [row for row in ours if row["seed"] == end["seed"] and row[OUTPUT] <= end[OUTPUT]]
    return min(reached, key=lambda row: row["steps"], default=None)


def table(rows: list[Row]) -> list[list[str]]:
    """A row a finish, the head first: where the published one ends, and how many times as much it takes as ours."""
    head = ["student", "published", "rate", "seeds", "ends at", "our steps"]
    made = [[*head, "examples", "operations", "processor", "time", "encoding"]]
    for finish in finishes(rows):
        ratios = [finish.times(what) for what in ("examples", "tflop", "cpu_seconds")]
        ratios += [finish.slower(PUBLISHED), finish.slower(ENCODING)]
        whole = len(finish.reached) == len(finish.pairs)
        made.append([
            finish.student,
            f"{finish.steps} × {finish.batch_size}",
            f"{finish.rate:g}",
            str(len(finish.pairs)),
            _span([f"{theirs[OUTPUT]:.4f}" for theirs, _ in finish.pairs]),
            _span([f"{mine['steps']:3d}" for _, mine in finish.reached]) if whole else "not reached",
            *(f"× {interval(each)}" if whole and each else "" for each in ratios),
        ])  # fmt: skip
    return made


def _span(values: list[str]) -> str:
    low, high = min(values).strip(), max(values).strip()
    return low if low == high else f"{low}–{high}"


def interval(ratios: list[float]) -> str:
    """Geometric mean with Student's t interval of 95 % of the logarithms."""
    logs = [math.log(ratio) for ratio in ratios]
    middle = statistics.mean(logs)
    if len(logs) < 2:
        return f"{math.exp(middle):.2f}"
    half = student_t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / len(logs) ** 0.5
    return f"{math.exp(middle):.2f} ({math.exp(middle - half):.2f}–{math.exp(middle + half):.2f})"
