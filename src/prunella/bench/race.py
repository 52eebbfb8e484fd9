"""To the same quality: the published procedure against ours, from the same pruned student on the same encoded pairs.

The published one has its steps; where it ends is the goal. Ours is trained for one number of steps after another, each
a training of its own from the first step to the end of its schedule, until one ends with a held-out output error that
is no higher. A step's time is timed apart, both procedures in turns.

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
from prunella.bench.evidence import EvidenceRow, load_or_measure_row
from prunella.bench.setting import ExperimentSetting
from prunella.bench.train_step import time_training_step
from prunella.bench.workload import Workload, count_encoder_flops
from prunella.compute.device import Placement
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.models.reference_configs import load_teacher_config
from prunella.params import Distill
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import STUDENTS
from prunella.pruning.prune import prune
from prunella.training.data import iter_heldout_batches, make_training_batches
from prunella.training.loop import train
from prunella.training.losses import OUTPUT, TASK, DistillationLoss
from prunella.training.validate import evaluate_loss

PUBLISHED, OURS, TIMING = "published", "ours", "turns"
PUBLISHED_LEARNING_RATE = 5e-5  # as published
PUBLISHED_WITH_ENCODING = "published, encoding"  # in every step, as the scripts do
TIMED_STEPS = 3  # steps of a turn
EVAL_BATCH_SIZE = 32  # held-out pairs at once

# BK-SDM's kd_train_text_to_image.py (Nota-NetsPresso/BK-SDM) and its commands. The average of weights that those keep
# (decay 0.9999) would still be the pruned student after so few steps: in its favour there is none.
PUBLISHED_SETTINGS = {
    "task_weight": 1.0, "output_weight": 1.0, "feature_weight": 1.0, "feature_normalization": "none",
    "gradient_accumulation_steps": 1, "optimizer": "adamw", "lr_warmup_steps": 0, "lr_scheduler": "constant",
    "weight_decay": 0.01,
    "betas": (0.9, 0.999), "eps": 1e-8, "max_grad_norm": 1.0, "ema_decay": 0.0, "snr_gamma": None, "noise_offset": 0.0,
    "caption_dropout": 0.0,
}  # fmt: skip


class RaceSpec(NamedTuple):
    """What runs: the published steps of a batch, rates to try beside the published one; our lengths."""

    steps: int
    batch_size: int
    learning_rates: Sequence[float]
    step_counts: Sequence[int]  # in steps, ascending
    num_rounds: int  # of turns

    def make_published_settings(self, distill_params: Distill, learning_rate: float) -> Distill:
        changes = {"steps": self.steps, "batch_size": self.batch_size, "learning_rate": learning_rate}
        return distill_params.model_copy(update=PUBLISHED_SETTINGS | changes)

    def make_our_settings(self, distill_params: Distill, steps: int) -> Distill:
        """Like ours, in so many steps; of a short training a tenth is warm-up."""
        return distill_params.model_copy(
            update={"steps": steps, "lr_warmup_steps": min(distill_params.lr_warmup_steps, steps // 10)}
        )


class RaceContext(NamedTuple):
    """The student of a race, and the file of rows; `told` is written into those that are new."""

    setting: ExperimentSetting
    student: str
    out: Path
    row_metadata: EvidenceRow

    def load_or_train(self, arm: str, seed: int, settings: Distill) -> EvidenceRow:
        """The row of a training; it runs where there is none."""
        settings = settings.model_copy(update={"seed": seed})
        identity = {
            "student": self.student,
            "arm": arm,
            "seed": seed,
            "settings": _digest_race_settings(self.setting, settings),
        }
        title = f"{self.student}, {arm}, rate {settings.learning_rate:g}, {settings.steps} steps, seed {seed}"
        return load_or_measure_row(
            self.out, identity, lambda: train_race_arm(self.setting, self.student, settings, title) | self.row_metadata
        )

    def load_or_time_round(self, round_number: int, spec: RaceSpec) -> EvidenceRow:
        """The row of a round of turns."""
        published_settings = spec.make_published_settings(self.setting.distill, PUBLISHED_LEARNING_RATE)
        identity = {
            "student": self.student,
            "arm": TIMING,
            "round": round_number,
            "settings": _digest_race_settings(self.setting, published_settings),
        }
        return load_or_measure_row(
            self.out,
            identity,
            lambda: time_race_round(self.setting, self.student, published_settings) | self.row_metadata,
        )


def run_race(context: RaceContext, seeds: Sequence[int], spec: RaceSpec) -> Iterator[EvidenceRow]:
    """Yield the rows: the published procedure at each rate on the first seed, then all on every seed, then the turns.

    On every seed the published procedure has its published rate and the one that ended lowest on the first seed, and
    ours runs until it has reached the lower end of the two.
    """
    distill_params, first_seed = context.setting.distill, seeds[0]
    row_by_rate = {
        learning_rate: context.load_or_train(
            PUBLISHED, first_seed, spec.make_published_settings(distill_params, learning_rate)
        )
        for learning_rate in dict.fromkeys([PUBLISHED_LEARNING_RATE, *spec.learning_rates])
    }
    yield from row_by_rate.values()
    best_rate = min(row_by_rate, key=lambda learning_rate: row_by_rate[learning_rate][OUTPUT])
    for seed in seeds:
        learning_rates = dict.fromkeys([PUBLISHED_LEARNING_RATE, best_rate])
        published_rows = [
            context.load_or_train(PUBLISHED, seed, spec.make_published_settings(distill_params, learning_rate))
            for learning_rate in learning_rates
        ]
        yield from published_rows if seed != first_seed else []
        target_error = min(published_row[OUTPUT] for published_row in published_rows)
        for steps in spec.step_counts:
            yield (our_row := context.load_or_train(OURS, seed, spec.make_our_settings(distill_params, steps)))
            if our_row[OUTPUT] <= target_error:
                break
    for round_number in range(spec.num_rounds):
        yield context.load_or_time_round(round_number, spec)


def train_race_arm(setting: ExperimentSetting, student: str, settings: Distill, title: str) -> EvidenceRow:
    """Train and measure: examples, counted operations, processor seconds, errors on all held-out pairs at the end."""
    teacher_unet, scheduler = load_unet(setting.teacher_dir, setting.device), load_scheduler(setting.teacher_dir)
    plan, num_train_timesteps = STUDENTS[student], scheduler.config.num_train_timesteps
    student_unet = prune(teacher_unet, plan)
    train_latents, heldout_latents = open_latents(setting.latents_dir, setting.teacher_dir, setting.device)
    loss = DistillationLoss(teacher_unet, feature_pairs(plan, settings.features), scheduler, settings)
    start_time = time.process_time()
    for _ in train(
        student_unet,
        loss,
        make_training_batches(train_latents, settings.batch_size, settings, num_train_timesteps),
        settings,
        title=title,
    ):
        pass
    seconds = time.process_time() - start_time
    terms = evaluate_loss(
        student_unet.eval(), loss, iter_heldout_batches(heldout_latents, EVAL_BATCH_SIZE, num_train_timesteps)
    )
    num_examples, workload = settings.steps * settings.batch_size, _make_race_workload(setting, student, settings)
    return {
        "learning_rate": settings.learning_rate,
        "batch_size": settings.batch_size,
        "steps": settings.steps,
        "examples": num_examples,
        "tflop": round(num_examples * workload.count_flops_per_image() / 1e12, 4),
        "tflop_encoders": round(num_examples * count_encoder_flops(workload) / 1e12, 4),  # had they run in every step
        "cpu_seconds": round(seconds, 1),
        **{name: float(f"{terms[name]:.6g}") for name in (TASK, OUTPUT)},
    }


def time_race_round(setting: ExperimentSetting, student: str, published_settings: Distill) -> EvidenceRow:
    """Seconds a step of ours, of the published one from encoded pairs, and of that as it is, with the encoders."""
    our_workload, published_workload = (
        _make_race_workload(setting, student, settings) for settings in (setting.distill, published_settings)
    )
    arms = {
        OURS: (Ours, our_workload),
        PUBLISHED: (Ours, published_workload),
        PUBLISHED_WITH_ENCODING: (Published, published_workload),
    }
    seconds_by_arm = {
        name: round(time_training_step(procedure, workload, TIMED_STEPS, warmup_steps=1).seconds, 4)
        for name, (procedure, workload) in arms.items()
    }
    return {"batch_size": published_settings.batch_size, **seconds_by_arm}


def _make_race_workload(setting: ExperimentSetting, student: str, settings: Distill) -> Workload:
    teacher_unet_config, placement = load_teacher_config(str(setting.teacher_dir)), Placement(setting.device)
    return Workload(STUDENTS[student], teacher_unet_config, settings, placement, encoders_dir=setting.teacher_dir)


def _digest_race_settings(setting: ExperimentSetting, settings: Distill) -> str:
    return setting.compute_digest(settings.model_dump(exclude={"storage"}))


class RaceResult(NamedTuple):
    """The end of a published procedure, and what it took: per seed its row, and ours that ended no higher, or None."""

    student: str
    steps: int
    batch_size: int
    learning_rate: float
    matched_rows: list[tuple[EvidenceRow, EvidenceRow | None]]
    timing_rows: list[EvidenceRow]

    @property
    def rows_at_target(self) -> list[tuple[EvidenceRow, EvidenceRow]]:
        return [(published_row, our_row) for published_row, our_row in self.matched_rows if our_row]

    def compute_ratios(self, metric_name: str) -> list[float]:
        """How many times as many "steps", "examples", "tflop" or "cpu_seconds" the published one took, by seed."""
        return [published_row[metric_name] / our_row[metric_name] for published_row, our_row in self.rows_at_target]

    def compute_time_ratios(self, arm: str) -> list[float]:
        """How many times as many seconds, by the median of the rounds' own ratios; [] where no turns were taken."""
        if not self.timing_rows:
            return []
        seconds_ratio = statistics.median(row[arm] / row[OURS] for row in self.timing_rows)
        return [ratio * seconds_ratio for ratio in self.compute_ratios("steps")]


def collect_race_results(rows: list[EvidenceRow]) -> list[RaceResult]:
    """The finishes: at the published rate, and at the rate that ended lowest on the first seed where it is another."""
    results = []
    published_rows = [row for row in rows if row["arm"] == PUBLISHED]
    for student, steps, batch_size in dict.fromkeys(
        (row["student"], row["steps"], row["batch_size"]) for row in published_rows
    ):
        identity = {"student": student, "steps": steps, "batch_size": batch_size}
        matching_rows = [row for row in published_rows if row.items() >= identity.items()]
        our_rows = [row for row in rows if row["arm"] == OURS and row["student"] == student]
        timing_rows = [
            row
            for row in rows
            if row["arm"] == TIMING and row["student"] == student and row["batch_size"] == batch_size
        ]
        best_row = min(
            (row for row in matching_rows if row["seed"] == matching_rows[0]["seed"]), key=lambda row: row[OUTPUT]
        )
        for learning_rate in dict.fromkeys([PUBLISHED_LEARNING_RATE, best_row["learning_rate"]]):
            matched_rows = [
                (row, _find_shortest_training(our_rows, row))
                for row in matching_rows
                if row["learning_rate"] == learning_rate
            ]
            results.append(RaceResult(student, steps, batch_size, learning_rate, matched_rows, timing_rows))
    return results


def _find_shortest_training(our_rows: list[EvidenceRow], published_row: EvidenceRow) -> EvidenceRow | None:
    """The shortest of our trainings of that seed that ended no higher."""
    candidates = [
        row for row in our_rows if row["seed"] == published_row["seed"] and row[OUTPUT] <= published_row[OUTPUT]
    ]
    return min(candidates, key=lambda row: row["steps"], default=None)


def build_race_table(rows: list[EvidenceRow]) -> list[list[str]]:
    """A row a finish, the head first: where the published one ends, and how many times as much it takes as ours."""
    head = ["student", "published", "rate", "seeds", "ends at", "our steps"]
    table = [[*head, "examples", "operations", "processor", "time", "encoding"]]
    for result in collect_race_results(rows):
        ratios = [result.compute_ratios(metric_name) for metric_name in ("examples", "tflop", "cpu_seconds")]
        ratios += [result.compute_time_ratios(PUBLISHED), result.compute_time_ratios(PUBLISHED_WITH_ENCODING)]
        all_reached = len(result.rows_at_target) == len(result.matched_rows)
        table.append([
            result.student,
            f"{result.steps} × {result.batch_size}",
            f"{result.learning_rate:g}",
            str(len(result.matched_rows)),
            _format_string_range([f"{published_row[OUTPUT]:.4f}" for published_row, _ in result.matched_rows]),
            _format_string_range([f"{our_row['steps']:3d}" for _, our_row in result.rows_at_target])
            if all_reached else "not reached",
            *(f"× {format_ratio_interval(ratio_values)}" if all_reached and ratio_values else "" 
              for ratio_values in ratios),
        ])  # fmt: skip
    return table


def _format_string_range(values: list[str]) -> str:
    low, high = min(values).strip(), max(values).strip()
    return low if low == high else f"{low}–{high}"


def format_ratio_interval(ratios: list[float]) -> str:
    """Geometric mean with Student's t interval of 95 % of the logarithms."""
    logs = [math.log(ratio) for ratio in ratios]
    log_mean = statistics.mean(logs)
    if len(logs) < 2:
        return f"{math.exp(log_mean):.2f}"
    margin = student_t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / len(logs) ** 0.5
    return f"{math.exp(log_mean):.2f} ({math.exp(log_mean - margin):.2f}–{math.exp(log_mean + margin):.2f})"
