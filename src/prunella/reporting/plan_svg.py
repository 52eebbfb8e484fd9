"""A plan as a picture: the teacher's UNet as an SVG, what the student keeps filled, what it loses in outline."""

import math
from collections.abc import Mapping
from html import escape

from prunella.pruning.plan import Plan

CELL, GAP, STAGE_GAP, MARGIN = 26, 4, 24, 16  # pixels: a block, between blocks, between stages, around all
RETAINED_COLORS = {"resnet": "#3b7dd8", "attention": "#e2843b"}
TEXT_COLOR, OUTLINE_COLOR = "#333", "#bbb"
LEGEND = "blue: resnet; orange: attention, transformer layers kept of all; outline: removed"
IMPORTANCE_LEGEND = "pale to dark: what the output error rises to without it, 1e-6 to 1; outline: removed"
MIN_ERROR, MAX_ERROR = 1e-6, 1.0  # errors that the palest and the darkest colour stand for


def render_plan_svg(plan: Plan, importance: Mapping[str, float] | None = None) -> str:
    """Down stages descend on the left, the mid block is below, up stages ascend on the right.

    A row is a stage: its resnets, and under each its attention with the number of transformer layers that are kept.
    Colours tell the two apart or, where it is given by the teacher's module names, the importance of each.
    """
    importance = importance or {}
    count = len(plan.down)
    left, right = MARGIN + 60, MARGIN + 60 + 3 * (CELL + GAP) + 40
    step = 2 * CELL + GAP + STAGE_GAP
    shapes = []
    for stage in range(count):
        y = MARGIN + 24 + stage * step
        shapes.append(_render_label(MARGIN, y + CELL, f"down {stage}"))
        shapes += _render_stage(plan, "down", stage, left, y, importance)
        shapes += _render_stage(plan, "up", count - 1 - stage, right, y, importance)
        shapes.append(_render_label(right + 3 * (CELL + GAP) + 8, y + CELL, f"up {count - 1 - stage}"))
    y = MARGIN + 24 + count * step
    shapes.append(_render_label(MARGIN, y + CELL / 2 + 4, "mid"))
    shapes += _render_mid(plan, left + 2 * (CELL + GAP), y, importance)
    width, height = right + 3 * (CELL + GAP) + 60 + MARGIN, y + CELL + MARGIN + 20
    title = f"{plan.title}, from {plan.teacher_family.title}"
    shapes.append(_render_label(MARGIN, MARGIN + 6, title))
    legend = IMPORTANCE_LEGEND if importance else LEGEND
    shapes.append(_render_label(MARGIN, height - 8, legend))
    width = max(width, MARGIN + 7 * max(len(title), len(legend)))  # a letter is about 6 pixels wide
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" font-size="12">\n'
        f"<title>{escape(title)}: what is kept and what is removed</title>\n"
        '<rect class="back" width="100%" height="100%" fill="white"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


def _render_stage(plan: Plan, way: str, stage: int, x: float, y: float, importance: Mapping[str, float]) -> list[str]:
    blocks = getattr(plan, way)[stage] or []
    layers = dict(zip(blocks, plan.list_kept_layers(way, stage), strict=True)) if blocks else {}
    count, shapes = plan.teacher_family.transformer_layers_at(way, stage), []
    for block in range(plan.teacher_family.blocks_per_stage(way)):
        block_x = x + block * (CELL + GAP)
        resnet, attention = (
            _block_colors(f"{way}_blocks.{stage}.{kind}s.{block}", importance) for kind in RETAINED_COLORS
        )
        shapes += _render_block(resnet, block_x, y, block in blocks, "")
        if count:
            retained_layers = layers.get(block, [])
            shapes += _render_block(
                attention,
                block_x,
                y + CELL + GAP,
                bool(retained_layers),
                _format_retained_layers(len(retained_layers), count),
            )
    return shapes


def _render_mid(plan: Plan, x: float, y: float, importance: Mapping[str, float]) -> list[str]:
    is_retained, count = plan.mid == "keep", plan.teacher_family.mid_layers
    names = ("resnets.0", "attentions.0", "resnets.1")
    first, attention, last = (_block_colors(f"mid_block.{name}", importance) for name in names)
    return [
        *_render_block(first, x, y, plan.mid != "drop", ""),
        *_render_block(attention, x + CELL + GAP, y, is_retained, _format_retained_layers(len(plan.mid_layers), count)),
        *_render_block(last, x + 2 * (CELL + GAP), y, is_retained, ""),
    ]


def _block_colors(module_name: str, importance: Mapping[str, float]) -> tuple[str, str]:
    """Colour of a block where it is kept, and of its outline where it is not."""
    if module_name not in importance:
        return RETAINED_COLORS["attention" if ".attentions." in module_name else "resnet"], OUTLINE_COLOR
    decades = math.log10(min(max(importance[module_name], MIN_ERROR), MAX_ERROR) / MIN_ERROR)
    fraction = decades / math.log10(MAX_ERROR / MIN_ERROR)
    red, green_blue = round(236 - 110 * fraction), round(214 - 196 * fraction)
    return (color := f"#{red:02x}{green_blue:02x}{green_blue:02x}"), color


def _format_retained_layers(num_retained: int, count: int) -> str:
    return (
        ""
        if count == 1 or not num_retained
        else f"{num_retained}"
        if num_retained == count
        else f"{num_retained}/{count}"
    )


def _render_block(colors: tuple[str, str], x: float, y: float, is_retained: bool, text: str) -> list[str]:
    outline_style = f'class="gone" fill="none" stroke="{colors[1]}" stroke-dasharray="3 2"'
    style = f'fill="{colors[0]}"' if is_retained else outline_style
    shapes = [f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="3" {style}/>']
    if text:
        text_attributes = f'x="{x + CELL / 2}" y="{y + CELL / 2 + 4}" text-anchor="middle"'
        shapes.append(f'<text {text_attributes} font-size="10" fill="white">{text}</text>')
    return shapes


def _render_label(x: float, y: float, text: str) -> str:
    return f'<text class="ink" x="{x}" y="{y}" fill="{TEXT_COLOR}">{escape(text)}</text>'
