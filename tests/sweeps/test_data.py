import pytest

from epanns.data.packs.pack import open_pack
from epanns.errors import ConfigError
from epanns.sweeps.data import PARTS, prepare_manifest, prepare_packs
from epanns.sweeps.experiment import DataConfig
from tests.data.layouts import LAYOUTS, NAMES, RATE


@pytest.mark.parametrize("layout", LAYOUTS, ids=NAMES)
def test_a_layout_becomes_packs_of_its_splits(tmp_path, layout):
    root = str(layout.write(tmp_path / "set"))
    splits = {part: (layout.parts[part][0],) for part in PARTS}
    data = DataConfig(layout.kind, root=root, sample_rate=RATE, seconds=0.01, **splits)
    packs = prepare_packs(data, prepare_manifest(data, tmp_path / "o"), tmp_path / "o")
    for part, (_, clip_ids) in layout.parts.items():
        assert open_pack(tmp_path / packs[part][0]).columns.clip_ids.tolist() == [
            clip_id.encode() for clip_id in clip_ids
        ]
    wrong = DataConfig(layout.kind, root=root, **(splits | {"val": ("dev",)}))
    with pytest.raises(ConfigError, match=r"\[data\] no split 'dev' in \w+: it has \w+, \w+, \w+"):
        prepare_manifest(wrong, tmp_path / "p")
