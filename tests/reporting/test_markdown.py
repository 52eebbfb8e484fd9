import copy

from reported import REPORT, estimate

from prunella.reporting.findings import format_student_sentence
from prunella.reporting.markdown import render_summary_markdown


def test_the_short_of_a_report_as_markdown():
    text = render_summary_markdown(REPORT)
    assert text.startswith("# sd-tiny: what was won, and what was lost\n\n* sd-tiny: 38 % of the UNet")
    assert format_student_sentence(REPORT, "sd-tiny") in text and "](images/sd-tiny.png)" in text
    assert "* sd-tiny, distillation: 100 steps in 80 s\n" in text and "commit 0123456789abcdef\n" in text
    assert "Output error: mean squared difference of the UNet's prediction" in text
    assert "safety checker" in text and "&" not in text


def test_tables_are_of_rows_of_equal_width():
    report = copy.deepcopy(REPORT)
    report["differences"]["a|b - c"] = {"composition": estimate(0, -1, 1)}
    lines = [line for line in render_summary_markdown(report).replace("\\|", "/").splitlines() if line.startswith("|")]
    widths = [line.count("|") for line in lines]
    tables = [i for i, line in enumerate(lines) if line.startswith("|---|")]
    assert len(tables) == 4
    for start, end in zip(tables, [*(i - 1 for i in tables[1:]), len(lines)], strict=True):
        assert len(set(widths[start - 1 : end])) == 1
