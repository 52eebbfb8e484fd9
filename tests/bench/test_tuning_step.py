import pytest

from prunella.bench.tuning_step import FINETUNE_METHODS, build_finetune_table, time_finetune_step
from prunella.bench.workload import Workload, make_distill_settings
from prunella.compute.device import Placement
from prunella.models.reference_configs import load_teacher_config
from prunella.pruning.plan import STUDENTS


@pytest.fixture
def case(teacher) -> Workload:
    return Workload(
        STUDENTS["sd-tiny"],
        load_teacher_config(str(teacher)),
        make_distill_settings(batch_size=2),
        Placement(),
        None,
        teacher,
    )


def test_each_way_of_tuning_is_timed_on_teacher_and_student(case):
    found = [time_finetune_step(case, model, way, 1) for way in FINETUNE_METHODS for model in ("teacher", "sd-tiny")]
    learned = {(each.way, each.model): each.learned for each in found}
    memory = {(each.way, each.model): each.reckoned for each in found}
    for model in ("teacher", "sd-tiny"):
        assert learned["full", model] == learned["dreambooth, full", model]
        assert learned["lora", model] == learned["dreambooth, lora", model] < learned["full", model]
        assert memory["lora", model] < memory["full", model] < memory["dreambooth, full", model]
    assert learned["full", "sd-tiny"] < learned["full", "teacher"]
    assert all(len(each.seconds) == 1 and each.seconds[0] > 0 for each in found)
    head, *table = build_finetune_table(found)
    assert len(table) == 8 and all(len(row) == len(head) for row in table)
    assert table[0][:2] == ["teacher", "full"] and table[0][-1] == "–"
    counted = time_finetune_step(case, "teacher", "lora", 0)
    assert (counted.learned, counted.reckoned) == (learned["lora", "teacher"], memory["lora", "teacher"])
    assert counted.seconds == [] and build_finetune_table([counted])[1][3] == "–"
