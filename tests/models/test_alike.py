import json
import shutil
from pathlib import Path

import pytest

from prunella.errors import UserError
from prunella.models.alike import check_same_inputs


def test_a_student_follows_one_of_its_own_layout_alone(pruned_xl, xl_teacher, tmp_path):
    check_same_inputs(pruned_xl, pruned_xl)
    check_same_inputs(xl_teacher, xl_teacher)
    odd = Path(shutil.copytree(pruned_xl, tmp_path / "odd"))
    config = json.loads((odd / "unet" / "config.json").read_text())
    (odd / "unet" / "config.json").write_text(json.dumps(config | {"transformer_layers_per_block": [1, 1, 2]}))
    for first, further, reason in (
        (pruned_xl, odd, "a UNet of another student's layout"),
        (pruned_xl, xl_teacher, "a UNet of family sdxl, not a student"),
        (xl_teacher, pruned_xl, "a UNet of a student, not family sdxl"),
    ):
        with pytest.raises(UserError, match=f"it has {reason}$"):
            check_same_inputs(first, further)
