"""The catalogue of students for a teacher: parameters and multiply-accumulates, counted on the meta device."""

import json
from functools import cache
from typing import Any

from prunella.errors import UserError
from prunella.models.pipeline import empty_unet
from prunella.profiling.cost import macs, parameters
from prunella.pruning.mapping import check_fit, student_config
from prunella.pruning.plan import STUDENTS, Plan

HEAD = [
    "",
    "known as",
    "parameters",
    "fewer",
    "down / mid / up, M",
    "GMACs",
    "fewer",
    "with attention",
    "fewer",
    "published",
]
LEGEND = """\
parameters: of the UNet; down, mid and up blocks apart from its in- and outputs
fewer: than the teacher's UNet has (the denominator is its UNet alone, without VAE and text encoders)
GMACs: convolutions and linear layers, as BK-SDM and SSD-1B count them; with attention: its products of queries, keys \
and values too; each for one forward pass of one example at the teacher's own size"""


def catalogue(teacher: dict[str, Any], original: str | None = None) -> list[list[str]]:
    """Table cells, the head first, then the teacher with this UNet config, then every student of it.

    `original` names the published teacher that this is, so that published figures stand beside ours.
    """
    whole = _counted(json.dumps(teacher, sort_keys=True))
    rows = [HEAD, ["teacher", "", *_cells(whole, whole), ""]]
    for name, plan in STUDENTS.items():
        if _fits(plan, teacher):
            counts = _counted(json.dumps(student_config(plan, teacher), sort_keys=True))
            rows.append([name, plan.title, *_cells(counts, whole), plan.published.get(original or "", "")])
    return rows


def _fits(plan: Plan, teacher: dict[str, Any]) -> bool:
    try:
        check_fit(plan, teacher)
    except UserError:
        return False
    return True


@cache
def _counted(config: str) -> dict[str, int]:
    """Counts of a UNet by its config, as JSON; two students may share one architecture."""
    return parameters(empty_unet(json.loads(config))) | macs(json.loads(config))


def _cells(counts: dict[str, int], whole: dict[str, int]) -> list[str]:
    return [
        f"{counts['params']:,}",
        _fewer(counts, whole, "params"),
        " / ".join(f"{counts[part] / 1e6:.2f}" for part in ("params_down", "params_mid", "params_up")),
        f"{counts['macs_conv_linear'] / 1e9:,.1f}",
        _fewer(counts, whole, "macs_conv_linear"),
        f"{counts['macs'] / 1e9:,.1f}",
        _fewer(counts, whole, "macs"),
    ]


def _fewer(counts: dict[str, int], whole: dict[str, int], what: str) -> str:
    return "" if counts is whole else f"{100 * (1 - counts[what] / whole[what]):.1f} %"
