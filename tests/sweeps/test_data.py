import numpy as np
import pytest
import soundfile

from epanns.data.packs.pack import open_pack
from epanns.errors import ConfigError
from epanns.sweeps.data import prepare_manifest, prepare_packs, require_splits
from epanns.sweeps.experiment import DataConfig

LISTS = {
    "audioset": {
        f"{split}_segments.csv": f'YTID,start_seconds,end_seconds,positive_labels\n_-_-_-_-_-{n},0,10,"/m/0bt9lr"\n'
        for n, split in enumerate(("train", "val", "eval"))
    },
    "fsd50k": {
        "labels/vocabulary.csv": "0,Dog,/m/0bt9lr\n",
        "labels/dev.csv": "fname,labels,mids,split\n_-_-_-_-_-0,Dog,/m/0bt9lr,train\n_-_-_-_-_-1,Dog,/m/0bt9lr,val\n",
        "labels/eval.csv": "fname,labels,mids\n_-_-_-_-_-2,Dog,/m/0bt9lr\n",
    },
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_layout_becomes_packs_of_its_splits(tmp_path, kind):
    for name, text in LISTS[kind].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for part, numbers in {"dev": (0, 1), "eval": (2,)}.items():
        (tmp_path / part).mkdir()
        for number in numbers:
            soundfile.write(tmp_path / part / f"_-_-_-_-_-{number}.wav", np.ones(80) / 10, 8_000)
    parts = {"train": ("train",), "val": ("val",), "test": ("eval",)}
    data = DataConfig(kind, root=str(tmp_path), sample_rate=8_000, seconds=0.01, **parts)
    (packs,) = prepare_packs([data], prepare_manifest(data, tmp_path / "o"), tmp_path / "o")
    ids = {part: open_pack(tmp_path / paths[0]).columns.clip_ids.tolist() for part, paths in packs.items()}
    assert ids == {"train": [b"_-_-_-_-_-0"], "val": [b"_-_-_-_-_-1"], "test": [b"_-_-_-_-_-2"]}
    with pytest.raises(ConfigError, match=r"\[data\] no split 'dev' in \w+: it has eval, train, val"):
        other = DataConfig(kind, root=str(tmp_path), **(parts | {"val": ("dev",)}))
        require_splits([other], prepare_manifest(other, tmp_path / "p"))
