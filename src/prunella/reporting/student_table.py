"""The catalogue of students for a teacher: parameters and multiply-accumulates, counted on the meta device."""

import json
from functools import cache
from typing import Any

from prunella.errors import UserError
from prunella.models.pipeline import build_meta_unet
from prunella.profiling.cost import count_macs, count_parameters
from prunella.pruning.mapping import check_plan_compatible, student_config
from prunella.pruning.plan import STUDENTS, Plan

TABLE_HEAD = [
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


def build_student_table(teacher_config: dict[str, Any], published_teacher: str | None = None) -> list[list[str]]:
    """Table cells, the head first, then the teacher with this UNet config, then every student of it.

    `published_teacher` names the published teacher that this is, so that published figures stand beside ours.
    """
    teacher_counts = _count_unet_costs(json.dumps(teacher_config, sort_keys=True))
    rows = [TABLE_HEAD, ["teacher", "", *_format_count_cells(teacher_counts, teacher_counts), ""]]
    for name, plan in STUDENTS.items():
        if _plan_fits(plan, teacher_config):
            counts = _count_unet_costs(json.dumps(student_config(plan, teacher_config), sort_keys=True))
            rows.append(
                [
                    name,
                    plan.title,
                    *_format_count_cells(counts, teacher_counts),
                    plan.published.get(published_teacher or "", ""),
                ]
            )
    return rows


def _plan_fits(plan: Plan, teacher_config: dict[str, Any]) -> bool:
    try:
        check_plan_compatible(plan, teacher_config)
    except UserError:
        return False
    return True


@cache
def _count_unet_costs(config: str) -> dict[str, int]:
    """Counts of a UNet by its config, as JSON; two students may share one architecture."""
    return count_parameters(build_meta_unet(json.loads(config))) | count_macs(json.loads(config))


def _format_count_cells(counts: dict[str, int], teacher_counts: dict[str, int]) -> list[str]:
    return [
        f"{counts['params']:,}",
        _format_reduction(counts, teacher_counts, "params"),
        " / ".join(f"{counts[block_group] / 1e6:.2f}" for block_group in ("params_down", "params_mid", "params_up")),
        f"{counts['macs_conv_linear'] / 1e9:,.1f}",
        _format_reduction(counts, teacher_counts, "macs_conv_linear"),
        f"{counts['macs'] / 1e9:,.1f}",
        _format_reduction(counts, teacher_counts, "macs"),
    ]


def _format_reduction(counts: dict[str, int], teacher_counts: dict[str, int], key: str) -> str:
    return "" if counts is teacher_counts else f"{100 * (1 - counts[key] / teacher_counts[key]):.1f} %"
