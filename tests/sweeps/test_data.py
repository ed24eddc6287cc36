import pytest

from epanns.data.packs.pack import open_pack
from epanns.errors import ConfigError
from epanns.sweeps.data import PARTS, prepare_manifest, prepare_packs, replace_unused_data, require_splits
from epanns.sweeps.experiment import DataConfig
from tests.data.layouts import LAYOUTS, NAMES, RATE


@pytest.mark.parametrize("layout", LAYOUTS, ids=NAMES)
def test_a_layout_becomes_packs_of_its_splits(tmp_path, layout):
    root = str(layout.write(tmp_path / "set"))
    splits = {part: (layout.parts[part][0],) for part in PARTS}
    settings = {"root": root, "table": layout.table}
    data = DataConfig(layout.kind, sample_rate=RATE, seconds=0.01, **settings, **splits)
    (packs,) = prepare_packs([data], prepare_manifest(data, tmp_path / "o"), tmp_path / "o")
    for part, (_, clip_ids) in layout.parts.items():
        assert open_pack(tmp_path / packs[part][0]).columns.clip_ids.tolist() == [
            clip_id.encode() for clip_id in clip_ids
        ]
    wrong = DataConfig(layout.kind, **settings, **(splits | {"val": ("dev",)}))
    with pytest.raises(ConfigError, match=r"\[data\] no split 'dev' in \w+: it has \w+, \w+, \w+"):
        require_splits([wrong], prepare_manifest(wrong, tmp_path / "p"))


PARTS_OF_FOLDS = {"train": ("fold1",), "val": ("fold2",), "test": ("fold3",)}


@pytest.mark.parametrize(
    ("kind", "table", "message"),
    [
        ("folder", {"path_colum": "x"}, r"table: unknown key 'path_colum' \(did you mean 'path_column'\?\)"),
        ("folder", {"label_column": "x"}, "label_column='x': must be a list of names of columns"),
        ("esc50", {"path_column": "x"}, "table: esc50 has no columns to name; only kind = 'folder' has"),
    ],
)
def test_a_wrong_table_of_columns_is_refused(kind, table, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(kind, root="x", table=table, **PARTS_OF_FOLDS)


def test_other_columns_replace_data_that_no_trial_has_used(tmp_path):
    first, second = (
        DataConfig("folder", root="x.csv", table={"path_column": name}, **PARTS_OF_FOLDS) for name in ("a", "b")
    )
    assert not replace_unused_data(first, tmp_path / "data")
    assert not replace_unused_data(first, tmp_path / "data")
    assert replace_unused_data(second, tmp_path / "data")
