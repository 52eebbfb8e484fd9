"""A student that chooses itself: importance, the exact choice, the best measured together, a tournament.

The plan follows from the teacher, the held-out pairs, the parameters and, where milliseconds are asked for, the table
of latencies. Everything measured on the way is kept in work/, so that what was killed goes on, and the plan comes out
the same.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from prunella.compute.launch import rank, size
from prunella.compute.resume import DONE, code_digest, identity, resume_dir
from prunella.errors import UserError
from prunella.latents.encoders import open_latents
from prunella.models.families import FAMILIES
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Description, Planning
from prunella.planning import latency
from prunella.planning.compatibility import notes
from prunella.planning.constraints import allowed, budget, cost_said
from prunella.planning.cost_model import Prices, counted, parts
from prunella.planning.importance import BINS, Error, OutputError
from prunella.planning.solver import Choice, Lacking, choose, removable, smallest
from prunella.planning.tournament import fields, tournament
from prunella.planning.units import End, Unit, planned, units, whole
from prunella.pruning.layout import whole_family
from prunella.pruning.plan import STUDENTS, Plan
from prunella.storage.files import atomic_write_text, read_json
from prunella.training.data import heldout_batches

ROOMS = ("compute", "latents", "models", "planning", "pruning", "training")
CURVE = 8  # points of the curve of quality against size
STEP = 4.0  # forward passes that a training step is worth: the teacher's, the student's, and back


class Market(NamedTuple):
    """What can go, what that saves, and the budget."""

    family: str
    units: list[Unit]
    prices: dict[str, Prices]  # params, macs; ms where they are measured
    what: str  # the budget is of
    most: float

    @property
    def stages(self) -> int:
        return len(FAMILIES[self.family].down)

    def cost(self, lacking: Lacking) -> float:
        return self.prices[self.what].of(planned(self.family, lacking))

    def costs(self, plan: Plan) -> dict[str, float]:
        return {what: prices.of(plan) for what, prices in self.prices.items()}


def market(
    name: str, asked: Description, config: dict[str, Any], table: Path, size: tuple[int, int], wanted: dict[str, Any]
) -> Market:
    """Of a teacher with this UNet config. Raises UserError where the wishes do not fit it, before anything is measured.

    `table` has latencies, `wanted` what it must belong to.
    """
    kind, (what,) = whole_family(config, f"plan.students.{name}"), asked.budget
    free = units(kind, config, asked.attention)
    may_go = allowed(free, asked.keep, kind)
    prices = counted(kind, config, removable(free), size)
    if what == "ms":
        prices["ms"] = latency.read(table, wanted)
    open_market = Market(kind, may_go, prices, what, 0.0)
    most = budget(name, asked, may_go, free, kind, open_market.cost, prices[what])
    return open_market._replace(most=most)


def chosen(
    params: Planning, name: str, *, teacher: Path, latents: Path, table: Path, out: Path, evidence: Path, device: str
) -> dict[str, Any]:
    """Choose student `name` for the `teacher` folder; write its plan `out`, after the `evidence`, and return that."""
    config = read_json(teacher / "unet" / "config.json")
    learned, heldout = open_latents(latents, teacher, device)
    latent = latency.latent_size(heldout)
    wanted = latency.settings(config, latent, params.precision, device)
    asked = market(name, params.students[name], config, table, latent, wanted)
    if params.rounds and params.batch_size % size():
        raise UserError(f"plan.batch_size: {params.batch_size} examples cannot be shared by {size()} processes")
    known = params.model_dump(include={"pairs", "batch_size", "precision"}) | {"code": code_digest(ROOMS)}
    ours = identity(known, [latents / "manifest.json", teacher / "unet"], ROOMS)
    with resume_dir("plan", ours, first=rank() == 0) as work:
        unet, scheduler = load_unet(teacher, device), load_scheduler(teacher)
        last = scheduler.config.num_train_timesteps
        among = np.arange(min(params.pairs, len(heldout)))
        batches = heldout_batches(heldout, params.batch_size, last, among)
        measure = OutputError(unet, asked.family, scheduler, batches, work / "measured", params.precision)
        began = time.perf_counter()
        _announce(name, asked, params, measure)
        importance = dict(zip(asked.units, measure.all([[unit] for unit in asked.units]), strict=True))
        means = {unit: error.mean for unit, error in importance.items()}
        found = choose(asked.units, asked.stages, means, asked.cost, asked.most, params.best)
        measured = measure.all([choice.lacking for choice in found])
        order = sorted(range(len(found)), key=lambda number: (measured[number].mean, found[number].predicted))
        plans = [planned(asked.family, choice.lacking, name) for choice in found]
        finalists = order[: 2**params.rounds]
        rounds = tournament(params, [plans[n] for n in finalists], unet, scheduler, learned, measure, work)
        after = dict(zip(finalists, rounds, strict=True))
        winner = min(finalists, key=lambda number: (-len(after[number]), [e.mean for e in after[number][-1:]]))
        told = {
            "student": name,
            "chosen": True,
            "budget": {
                "of": asked.what,
                "most": asked.most,
                "asked": next(iter(params.students[name].budget.values())),
            },
            "settings": params.model_dump(exclude={"students"}) | params.students[name].model_dump(exclude={"budget"}),
            "teacher": asked.costs(whole(asked.family)),
            "bins": BINS,
            "parts": _parts(asked, means),
            "units": [_unit(asked, unit, importance[unit], found[winner].lacking) for unit in asked.units],
            "kept_whole": _kept_whole(asked, found[winner].lacking),
            "choices": [
                _choice(asked, found[n], measured[n], after.get(n, []), n == winner)
                for n in [*finalists, *order[len(finalists) :]]
            ],
            "hand_made": _hand_made(asked, measure),
            "curve": _curve(asked, means, measure),
            "notes": notes(plans[winner]),
            "seconds": round(time.perf_counter() - began, 1),
        }
        if rank() == 0:
            _write(name, asked, found[winner], measured[winner], told, out, evidence)
            atomic_write_text(work / DONE, "{}")
    return told


def _announce(name: str, asked: Market, params: Planning, measure: OutputError) -> None:
    """Say beforehand what choosing costs, by the time of the teacher's own forward pass."""
    began = time.perf_counter()
    pairs = measure.teach()
    each = time.perf_counter() - began
    count = len(asked.units) + params.best + CURVE + len(STUDENTS)
    steps = params.steps * sum(fields(2**params.rounds, params.rounds))
    training = steps * STEP * each * params.batch_size / pairs
    if rank() == 0:
        print(
            f"plan: {name} is to have {cost_said(asked.most, asked.what)} at most: {count} students are measured on "
            f"{pairs} held-out pairs, about {count * each / size():.0f} s; {steps} steps of a tournament, about "
            f"{training / size():.0f} s more",
            flush=True,
        )


def _unit(asked: Market, unit: Unit, error: Error, taken: Lacking) -> dict[str, Any]:
    whole_costs, left = asked.costs(whole(asked.family)), asked.costs(planned(asked.family, [unit]))
    saves = {what: round(whole_costs[what] - left[what], 4) for what in left}
    return {"name": unit.name, "group": unit.group, **_error(error), "saves": saves, "taken": unit in taken}


def _kept_whole(asked: Market, taken: Lacking) -> list[str]:
    """The groups of which something could go and nothing is gone."""
    removed = max((unit.removed for unit in taken if isinstance(unit, End)), default=0)
    stages = {f"stage {stage}" for stage in range(asked.stages - removed, asked.stages)}
    return sorted({unit.group for unit in asked.units} - {unit.group for unit in taken} - stages)


def _parts(asked: Market, importance: dict[Unit, float]) -> dict[str, float]:
    """By part of the teacher, the least error of a student that lacks it."""
    every, least = parts(whole(asked.family)), dict[str, float]()
    for unit, error in importance.items():
        for part in every - parts(planned(asked.family, [unit])):
            least[part] = min(error, least.get(part, error))
    return dict(sorted(least.items()))


def _choice(asked: Market, choice: Choice, error: Error, rounds: Sequence[Error], winner: bool) -> dict[str, Any]:
    plan = planned(asked.family, choice.lacking)
    return {
        "lacking": [unit.name for unit in choice.lacking],
        **asked.costs(plan),
        "predicted": choice.predicted,
        **_error(error),
        "after_rounds": [_error(each) for each in rounds],
        "chosen": winner,
    }


def _error(error: Error) -> dict[str, Any]:
    return {"error": error.mean, "by_timestep": list(error.by_timestep)}


def _hand_made(asked: Market, measure: OutputError) -> list[dict[str, Any]]:
    """Costs and errors of the catalogue's students of this family, where their weights fit this teacher."""
    found, seen = [], []
    for name, plan in STUDENTS.items():
        architecture = plan.model_dump(include={"down", "mid", "up", "layers"})
        if plan.family != asked.family or architecture in seen:
            continue
        seen.append(architecture)
        try:
            found.append({"name": name, **asked.costs(plan), **_error(measure.of(plan))})
        except UserError:
            continue  # this teacher's weights do not fit
    return found


def _curve(asked: Market, importance: dict[Unit, float], measure: OutputError) -> list[dict[str, Any]]:
    """The best choice at several budgets, from the smallest student's on, and what it errs before training."""
    teacher = asked.prices[asked.what].of(whole(asked.family))
    least = asked.cost(smallest(asked.units, asked.stages, asked.cost))
    points = []
    for most in np.geomspace(least, teacher, CURVE + 1)[:-1].tolist():
        for choice in choose(asked.units, asked.stages, importance, asked.cost, max(most, least), 1):
            costs = asked.costs(planned(asked.family, choice.lacking))
            points.append({**costs, "predicted": choice.predicted, **_error(measure.lacking(choice.lacking))})
    return points


def _write(name: str, asked: Market, choice: Choice, error: Error, told: dict, out: Path, evidence: Path) -> None:
    cost = asked.cost(choice.lacking)
    source = (
        f"prunella's choice: {cost_said(cost, asked.what)} of {cost_said(asked.most, asked.what)} at most, "
        f"output error {error.mean:.3g} before training, {choice.predicted:.3g} predicted"
    )
    plan = planned(asked.family, choice.lacking, name, source)
    content = plan.model_dump(exclude={"published"}, exclude_defaults=True)
    atomic_write_text(evidence, json.dumps(told, indent=1) + "\n")
    atomic_write_text(out, yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120))


def said(report: dict[str, Any]) -> str:
    """In a line: what was chosen, of how much, and how it compares."""
    taken = next(choice for choice in report["choices"] if choice["chosen"])
    what, last = report["budget"]["of"], [taken, *taken["after_rounds"]][-1]
    beside = ", ".join(f"{each['name']} {each['error']:.3g}" for each in report["hand_made"])
    return (
        f"{report['student']}: {cost_said(taken[what], what)} of {cost_said(report['budget']['most'], what)} at most, "
        f"output error {taken['error']:.3g} before training ({beside}), {last['error']:.3g} after the tournament"
    )
