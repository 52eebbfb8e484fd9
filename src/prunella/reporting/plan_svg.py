"""A plan as a picture: the teacher's UNet as an SVG, what the student keeps filled, what it loses in outline."""

import math
from collections.abc import Mapping
from html import escape

from prunella.pruning.plan import Plan

CELL, GAP, STAGE, MARGIN = 26, 4, 24, 16  # pixels: a block, between blocks, between stages, around all
KEPT = {"resnet": "#3b7dd8", "attention": "#e2843b"}
INK, PALE = "#333", "#bbb"
LEGEND = "blue: resnet; orange: attention, transformer layers kept of all; outline: removed"
IMPORTANT = "pale to dark: what the output error rises to without it, 1e-6 to 1; outline: removed"
LEAST, MOST = 1e-6, 1.0  # errors that the palest and the darkest colour stand for


def svg(plan: Plan, importance: Mapping[str, float] | None = None) -> str:
    """Down stages descend on the left, the mid block is below, up stages ascend on the right.

    A row is a stage: its resnets, and under each its attention with the number of transformer layers that are kept.
    Colours tell the two apart or, where it is given by the teacher's module names, the importance of each.
    """
    importance = importance or {}
    count = len(plan.down)
    left, right = MARGIN + 60, MARGIN + 60 + 3 * (CELL + GAP) + 40
    step = 2 * CELL + GAP + STAGE
    shapes = []
    for stage in range(count):
        y = MARGIN + 24 + stage * step
        shapes.append(_label(MARGIN, y + CELL, f"down {stage}"))
        shapes += _stage(plan, "down", stage, left, y, importance)
        shapes += _stage(plan, "up", count - 1 - stage, right, y, importance)
        shapes.append(_label(right + 3 * (CELL + GAP) + 8, y + CELL, f"up {count - 1 - stage}"))
    y = MARGIN + 24 + count * step
    shapes.append(_label(MARGIN, y + CELL / 2 + 4, "mid"))
    shapes += _mid(plan, left + 2 * (CELL + GAP), y, importance)
    width, height = right + 3 * (CELL + GAP) + 60 + MARGIN, y + CELL + MARGIN + 20
    title = f"{plan.title}, from {plan.teacher.title}"
    shapes.append(_label(MARGIN, MARGIN + 6, title))
    legend = IMPORTANT if importance else LEGEND
    shapes.append(_label(MARGIN, height - 8, legend))
    width = max(width, MARGIN + 7 * max(len(title), len(legend)))  # a letter is about 6 pixels wide
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" font-size="12">\n'
        f"<title>{escape(title)}: what is kept and what is removed</title>\n"
        '<rect class="back" width="100%" height="100%" fill="white"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


def _stage(plan: Plan, way: str, stage: int, x: float, y: float, importance: Mapping[str, float]) -> list[str]:
    pairs = getattr(plan, way)[stage] or []
    layers = dict(zip(pairs, plan.layers_of(way, stage), strict=True)) if pairs else {}
    count, shapes = plan.teacher.layers_of(way, stage), []
    for pair in range(plan.teacher.pairs_of(way)):
        at = x + pair * (CELL + GAP)
        resnet, attention = (_colour(f"{way}_blocks.{stage}.{kind}s.{pair}", importance) for kind in KEPT)
        shapes += _block(resnet, at, y, pair in pairs, "")
        if count:
            kept = layers.get(pair, [])
            shapes += _block(attention, at, y + CELL + GAP, bool(kept), _share(len(kept), count))
    return shapes


def _mid(plan: Plan, x: float, y: float, importance: Mapping[str, float]) -> list[str]:
    kept, count = plan.mid == "keep", plan.teacher.mid
    names = ("resnets.0", "attentions.0", "resnets.1")
    first, attention, last = (_colour(f"mid_block.{name}", importance) for name in names)
    return [
        *_block(first, x, y, plan.mid != "drop", ""),
        *_block(attention, x + CELL + GAP, y, kept, _share(len(plan.mid_layers), count)),
        *_block(last, x + 2 * (CELL + GAP), y, kept, ""),
    ]


def _colour(part: str, importance: Mapping[str, float]) -> tuple[str, str]:
    """Of a block where it is kept, and of its outline where it is not."""
    if part not in importance:
        return KEPT["attention" if ".attentions." in part else "resnet"], PALE
    decades = math.log10(min(max(importance[part], LEAST), MOST) / LEAST)
    share = decades / math.log10(MOST / LEAST)
    red, rest = round(236 - 110 * share), round(214 - 196 * share)
    return (colour := f"#{red:02x}{rest:02x}{rest:02x}"), colour


def _share(kept: int, count: int) -> str:
    return "" if count == 1 or not kept else f"{kept}" if kept == count else f"{kept}/{count}"


def _block(colours: tuple[str, str], x: float, y: float, kept: bool, text: str) -> list[str]:
    gone = f'class="gone" fill="none" stroke="{colours[1]}" stroke-dasharray="3 2"'
    look = f'fill="{colours[0]}"' if kept else gone
    shapes = [f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="3" {look}/>']
    if text:
        middle = f'x="{x + CELL / 2}" y="{y + CELL / 2 + 4}" text-anchor="middle"'
        shapes.append(f'<text {middle} font-size="10" fill="white">{text}</text>')
    return shapes


def _label(x: float, y: float, text: str) -> str:
    return f'<text class="ink" x="{x}" y="{y}" fill="{INK}">{escape(text)}</text>'
