import json

import pytest
from known import SD15, SD21, SDXL

from prunella.errors import UserError
from prunella.models.reference_configs import load_reference_configs, load_teacher_config


def test_the_originals_are_the_published_ones():
    assert load_reference_configs() == {"sd15": SD15, "sd21": SD21, "sdxl": SDXL}


def test_a_folders_config_is_read(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"in_channels": 9}))
    assert load_teacher_config(str(tmp_path)) == {"in_channels": 9}


def test_neither_original_nor_folder(tmp_path):
    with pytest.raises(UserError, match=r"no original is called 'sdx'; did you mean 'sdxl'\?; there is no such folder"):
        load_teacher_config("sdx")
    with pytest.raises(UserError, match="it is no pipeline folder either"):
        load_teacher_config(str(tmp_path))
