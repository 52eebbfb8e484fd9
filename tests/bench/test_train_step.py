import json

import pytest

from prunella.bench import baselines
from prunella.bench.baselines import Ours, Published
from prunella.bench.train_step import build_step_table, format_step_summary, make_step_report, time_procedures
from prunella.bench.workload import Workload, count_encoder_flops, make_distill_settings
from prunella.cli import main
from prunella.compute.device import Placement
from prunella.errors import UserError
from prunella.models.reference_configs import load_teacher_config
from prunella.profiling.cost import count_macs
from prunella.pruning.plan import STUDENTS
from prunella.training.loop import train

PARTS = ["data", "teacher", "student", "backward", "optimizer"]


@pytest.fixture(params=["sd-tiny", pytest.param("koala-700m", marks=pytest.mark.slow)])
def case(request, teacher, xl_teacher) -> Workload:
    plan = STUDENTS[request.param]
    folder = teacher if plan.family == "sd" else xl_teacher
    encoders = folder if plan.family == "sd" else None
    return Workload(
        plan, load_teacher_config(str(folder)), make_distill_settings(batch_size=2), Placement(), None, encoders
    )


def test_operations_are_the_teachers_forward_and_three_times_the_students(case):
    expected = 2 * count_macs(case.teacher_unet_config)["macs"] + 6 * count_macs(case.student_unet_config)["macs"]
    assert case.count_flops_per_image() == expected


def test_our_step_is_timed_part_by_part(case):
    figures = make_step_report(case, time_procedures(case, 1, 1, (Ours,)))
    ours = figures["ways"]["ours"]
    assert list(ours["shares"]) == PARTS and sum(ours["shares"].values()) == pytest.approx(1)
    assert ours["images_per_second"] == pytest.approx(2 / ours["seconds_a_step"])
    assert ours["tflops"] == pytest.approx(figures["tflop_an_image"] * ours["images_per_second"])
    assert ours["share_of_peak"] == pytest.approx(ours["tflops"] / figures["matrix_peak_tflops"])
    assert "measured_ratios" not in figures


def test_our_steps_are_those_of_the_training_loop(case, monkeypatch):
    made = []

    def counted(*given, **named):
        for row in train(*given, **named):
            made.append(row)
            yield row

    monkeypatch.setattr(baselines, "train", counted)
    longer = case._replace(settings=make_distill_settings(batch_size=2, gradient_accumulation_steps=2, ema_decay=0.9))
    figures = make_step_report(longer, time_procedures(longer, 2, 1, (Ours,)))
    assert len(made) == 2 + 2 * 2 and list(figures["ways"]["ours"]["shares"]) == PARTS
    ours = figures["ways"]["ours"]
    assert ours["images_per_second"] == pytest.approx(4 / ours["seconds_a_step"])


def test_the_published_procedure_encodes_in_every_step(teacher):
    case = Workload(
        STUDENTS["sd-tiny"],
        load_teacher_config(str(teacher)),
        make_distill_settings(batch_size=2),
        Placement(),
        None,
        teacher,
    )
    timings = time_procedures(case, 1, 2, (Ours, Published))
    assert list(timings["published"][0].part_seconds) == ["data", "encoders", *PARTS[1:]]
    figures = make_step_report(case, timings)
    assert figures["counted_ratio"] == pytest.approx(1 + count_encoder_flops(case) / case.count_flops_per_image())
    ratios = [b.seconds / a.seconds for a, b in zip(timings["ours"], timings["published"], strict=True)]
    assert figures["measured_ratios"] == ratios
    head, ours, published = build_step_table(figures)
    assert [head[0], ours[0], published[0]] == ["procedure", "ours", "published"]
    assert ours[head.index("encoders")] == "–" != published[head.index("encoders")]
    assert "sd-tiny at 32 px, batch 2, 2 at once, fp32, cpu, compile False" in format_step_summary(case, figures)


def test_the_counted_ratio_of_sd_small_at_512_px():
    case = Workload(STUDENTS["sd-small"], load_teacher_config("sd15"), make_distill_settings(), Placement(), 512)
    assert case.count_flops_per_image() == pytest.approx(2.4e12, rel=0.02)  # counted by others: 0.80 + 1.57 TFLOP
    assert count_encoder_flops(case) / case.count_flops_per_image() == pytest.approx(0.46, abs=0.05)


def test_resolutions_that_do_not_fit_are_refused(teacher):
    case = Workload(
        STUDENTS["sd-tiny"], load_teacher_config(str(teacher)), make_distill_settings(), Placement(), 36, teacher
    )
    with pytest.raises(UserError, match="--resolution: 36 is no multiple of 32, which this teacher needs"):
        case.count_flops_per_image()


def test_the_command_prints_a_table(teacher, tmp_path, capsys):
    asked = f"bench train --student sd-tiny --teacher-config {teacher} --batch-size 1 --steps 1 --rounds 1 --device cpu"
    main.main([*asked.split(), "--json", str(tmp_path / "figures.json")])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["procedure", "images/s", "TFLOP/s"] and printed[1].startswith("ours")
    assert "ours" in json.loads((tmp_path / "figures.json").read_text())["ways"]
