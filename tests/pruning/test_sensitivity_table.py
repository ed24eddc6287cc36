"""The table of sensitivities: the round trip through CSV, and invalid tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import PruningError
from epanns.pruning.budgets.sensitivity_table import Sensitivity, SensitivityRow, read_sensitivity

DENSE = SensitivityRow("", 0.0, None, 0.75, 1000, 20_000)
ROWS = (
    SensitivityRow("conv_block1.conv1", 0.25, 48, 0.74, 900, 18_000),
    SensitivityRow("conv_block1.conv1", 0.5, 32, 0.5, 800, 16_000),
    SensitivityRow("conv_block2.conv1", 0.5, 64, 0.76, 700, 14_000),
)
NETWORK = "0123456789abcdef" * 4
TEXT = f"""\
layer,ratio,width,mAP,loss_of_mAP,n_params,backbone_macs,network
,0,,0.750000,0.000000,1000,20000,{NETWORK}
conv_block1.conv1,0.25,48,0.740000,0.010000,900,18000,
conv_block1.conv1,0.5,32,0.500000,0.250000,800,16000,
conv_block2.conv1,0.5,64,0.760000,-0.010000,700,14000,
"""


def test_the_file_lists_the_unpruned_network_first(tmp_path):
    table = Sensitivity(DENSE, ROWS, NETWORK)
    assert table.to_csv() == TEXT
    (tmp_path / "sensitivity.csv").write_text(TEXT)
    assert read_sensitivity(tmp_path / "sensitivity.csv") == table
    assert table.layers == ("conv_block1.conv1", "conv_block2.conv1")
    assert table.ratios == (0.25, 0.5)
    assert [row.width for row in table.of("conv_block1.conv1")] == [48, 32]


def test_a_table_without_the_column_network_is_read(tmp_path):
    path = tmp_path / "sensitivity.csv"
    path.write_text(TEXT.replace(",network", "").replace(NETWORK, "").replace(",\n", "\n"))
    assert path.read_text().count(",") == 5 * 6
    assert read_sensitivity(path) == Sensitivity(DENSE, ROWS)


@given(scores=st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_scores_are_read_back_to_six_decimals(tmp_path_factory, scores):
    path = tmp_path_factory.mktemp("table") / "sensitivity.csv"
    rows = [SensitivityRow("a.b", index / 10, 3, score, 7, 9) for index, score in enumerate(scores[1:], start=1)]
    path.write_text(Sensitivity(SensitivityRow("", 0.0, None, scores[0], 8, 10), tuple(rows)).to_csv())
    read = read_sensitivity(path)
    assert [row.mAP for row in (read.dense, *read.rows)] == pytest.approx(scores, abs=5.1e-7)
    assert read.to_csv() == path.read_text()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("layer,ratio", "layer,rate", "its columns must be layer,ratio,width,mAP,loss_of_mAP,n_params,backbone_macs"),
        ("0.5,32,", "0.5,32.5,", "line 4: invalid literal for int"),
        ("0.25,48,0.740000,0.010000", "1.25,48,0.740000,0.010000", "line 3: ratio must be in (0, 1): measure again"),
        ("0.25,48,", "0.25,0,", "line 3: width must be at least 1"),
        ("0.500000,0.250000", "1.500000,-0.750000", "line 4: mAP must be in [0, 1]"),
        ("0.500000,0.250000", "nan,nan", "line 4: mAP must be in [0, 1]"),
        (",800,16000", ",0,16000", "line 4: n_params and backbone_macs must be above 0"),
        ("conv_block1.conv1,0.5,32", "conv_block1.conv1,0.25,48", "line 4: conv_block1.conv1 at 0.25 is given twice"),
        (
            ",0,,0.750000",
            "conv_block6.conv1,0.1,3,0.750000",
            "the dense network, without a layer, must be in line 2",
        ),
        ("conv_block2.conv1,0.5,64,0.760000,-0.010000,700,14000,\n", 'a,"', "cannot be read as CSV"),
        (",16000", "", "row 3: has 7 fields, must have 8: layer,ratio,width"),
        (NETWORK, NETWORK[:-1], "...: must be 64 hexadecimal digits or nothing: measure"),
    ],
)
def test_an_invalid_table_is_refused_with_path_and_line(tmp_path, before, after, message):
    path = tmp_path / "sensitivity.csv"
    assert before in TEXT
    path.write_text(TEXT.replace(before, after))
    with pytest.raises(PruningError) as error:
        read_sensitivity(path)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(PruningError, match="cannot be read as CSV .*; give the folder's sensitivity.csv"):
        read_sensitivity(tmp_path / "none.csv")
