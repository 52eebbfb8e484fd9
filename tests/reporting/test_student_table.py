import pytest
from known import SD15, SD21, SDXL

from prunella.reporting.student_table import TABLE_HEAD, build_student_table

# Published architectures' GMACs: convolutions and linear layers, and with attention's products.
GMACS = {
    "sd15": {
        "teacher": "338.6 401.6",
        "sd-small": "223.7 261.5",
        "bk-sdm-base": "223.7 261.5",
        "bk-sdm-small": "217.6 255.4",
        "sd-tiny": "205.0 242.8",
        "bk-sdm-tiny": "205.0 242.8",
    },
    "sd21": {
        "teacher": "339.1 402.1",
        "sd-small": "224.0 261.8",
        "bk-sdm-small": "217.9 255.7",
        "sd-tiny": "205.2 243.0",
    },
    "sdxl": {
        "teacher": "2,988.7 3,380.6",
        "ssd-1b": "1,853.8 2,103.9",
        "segmind-vega": "1,273.0 1,411.2",
        "koala-1b": "1,515.4 1,715.9",
        "koala-700m": "1,176.2 1,350.8",
    },
}


@pytest.mark.parametrize(("original", "config"), [("sd15", SD15), ("sd21", SD21), ("sdxl", SDXL)])
def test_multiply_accumulates(original, config):
    table = {row[0]: dict(zip(TABLE_HEAD, row, strict=True)) for row in build_student_table(config, original)[1:]}
    found = {name: f"{row['GMACs']} {row['with attention']}" for name, row in table.items()}
    assert found == found | GMACS[original]


def test_a_row_by_hand():
    rows = {row[0]: row for row in build_student_table(SD15, "sd15")}
    # 1 − 323,384,964 / 859,520,964; 1 − 205.0 / 338.6; 1 − 242.8 / 401.6
    expected = ["323,384,964", "62.4 %", "84.50 / 0.00 / 236.81", "205.0", "39.5 %", "242.8", "39.6 %"]
    assert rows["bk-sdm-tiny"][1:9] == ["BK-SDM-Tiny (= SD-Tiny)", *expected]
    assert rows["bk-sdm-tiny"][9].startswith("0.33 B")
    assert set(rows) == {"", *GMACS["sd15"]}


def test_published_figures_belong_to_their_original():
    assert {row[9] for row in build_student_table(SD15 | {"sample_size": 32})[1:]} == {""}
