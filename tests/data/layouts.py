"""Tiny data sets in published layouts: their lists, sound of 10 ms, and the clips that each split must have."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 8_000


@dataclass(frozen=True)
class Layout:
    """A data set in a published layout.

    Attributes:
        kind: Subcommand of ``epanns data``, and ``kind`` of an experiment's ``[data]``.
        lists: Text files by relative path.
        sounds: Relative paths of the sound files.
        parts: ``train``, ``val`` and ``test`` -> name of a split and the ids of its clips.
        root: Argument ROOT, relative to the folder.
        table: Columns of a CSV file, as ``table`` of an experiment's ``[data]``.
    """

    kind: str
    lists: Mapping[str, str]
    sounds: tuple[str, ...]
    parts: Mapping[str, tuple[str, tuple[str, ...]]]
    root: str = "."
    table: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> list[str]:
        """Options of the subcommand that name the columns."""
        values = ((key, [value] if isinstance(value, str) else value) for key, value in self.table.items())
        return [word for key, named in values for name in named for word in (f"--{key.replace('_', '-')}", name)]

    def write(self, folder: Path) -> Path:
        """Write the data set and return its ROOT."""
        for name, text in self.lists.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        for number, name in enumerate(self.sounds, start=1):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name, np.full(RATE // 100, number / 100), RATE)
        return folder / self.root


def _slices(*names: str, fold: int) -> tuple[str, ...]:
    return tuple(f"UrbanSound8K/audio/fold{fold}/{name}" for name in names)


def _task(prediction: str, *splits: str) -> str:
    return json.dumps({"embedding_type": "scene", "prediction_type": prediction, "splits": splits})


LAYOUTS = (
    Layout(
        "audioset",
        {
            f"{split}_segments.csv": f'YTID,start_seconds,end_seconds,positive_labels\n_-_-_-_-_-{n},0,10,"/m/0bt9lr"\n'
            for n, split in enumerate(("train", "val", "eval"))
        },
        tuple(f"audio/Y_-_-_-_-_-{number}.wav" for number in range(3)),
        {
            part: (split, (f"_-_-_-_-_-{n}",))
            for n, (part, split) in enumerate(zip(("train", "val", "test"), ("train", "val", "eval"), strict=True))
        },
    ),
    Layout(
        "fsd50k",
        {
            "labels/vocabulary.csv": "0,Dog,/m/0bt9lr\n",
            "labels/dev.csv": "fname,labels,mids,split\n10,Dog,/m/0bt9lr,train\n11,Dog,/m/0bt9lr,val\n",
            "labels/eval.csv": "fname,labels,mids\n12,Dog,/m/0bt9lr\n",
        },
        ("dev/10.wav", "dev/11.wav", "eval/12.wav"),
        {"train": ("train", ("10",)), "val": ("val", ("11",)), "test": ("eval", ("12",))},
    ),
    Layout(
        "urbansound8k",
        {
            "UrbanSound8K/metadata/UrbanSound8K.csv": "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
            "7-3-0-0.wav,7,0.0,0.01,1,1,3,dog_bark\n7-3-0-1.wav,7,0.5,0.51,1,1,3,dog_bark\n"
            "8-8-0-0.wav,8,0.0,0.01,2,2,8,siren\n9-3-0-0.wav,9,0.0,0.01,1,10,3,dog_bark\n"
        },
        (
            *_slices("7-3-0-0.wav", "7-3-0-1.wav", fold=1),
            *_slices("8-8-0-0.wav", fold=2),
            *_slices("9-3-0-0.wav", fold=10),
        ),
        {
            "train": ("fold1", ("7-3-0-0.wav", "7-3-0-1.wav")),
            "val": ("fold2", ("8-8-0-0.wav",)),
            "test": ("fold10", ("9-3-0-0.wav",)),
        },
    ),
    Layout(
        "urbansound8k",
        {},
        (*_slices("7-3-0-0.wav", fold=1), *_slices("8-8-0-0.wav", fold=2), *_slices("9-3-0-0.wav", fold=3)),
        {"train": ("fold1", ("7-3-0-0.wav",)), "val": ("fold2", ("8-8-0-0.wav",)), "test": ("fold3", ("9-3-0-0.wav",))},
        root="UrbanSound8K",
    ),
    Layout(
        "speechcommands",
        {"validation_list.txt": "bed/11_nohash_0.wav\n", "testing_list.txt": "yes/22_nohash_0.wav\n", "README.md": "-"},
        ("bed/00_nohash_0.wav", "bed/00_nohash_1.wav", "bed/11_nohash_0.wav", "yes/22_nohash_0.wav"),
        {
            "train": ("train", ("bed/00_nohash_0.wav", "bed/00_nohash_1.wav")),
            "val": ("val", ("bed/11_nohash_0.wav",)),
            "test": ("test", ("yes/22_nohash_0.wav",)),
        },
    ),
    Layout(
        "hear",
        {
            "task_metadata.json": _task("multilabel", "train", "valid", "test"),
            "labelvocabulary.csv": "idx,label\n0,dog\n1,rain\n",
            "train.json": '{"a.wav": ["rain", "dog"]}',
            "valid.json": '{"b.wav": ["dog"]}',
            "test.json": '{"c.wav": ["rain"]}',
        },
        ("16000/train/a.wav", "16000/valid/b.wav", "16000/test/c.wav"),
        {"train": ("train", ("a.wav",)), "val": ("val", ("b.wav",)), "test": ("test", ("c.wav",))},
    ),
    Layout(
        "hear",
        {
            "task_metadata.json": _task("multiclass", "fold00", "fold01", "fold02"),
            "labelvocabulary.csv": "idx,label\n0,0\n1,1\n",
            **{f"fold0{fold}.json": f'{{"{fold}.wav": [{fold % 2}]}}' for fold in range(3)},
        },
        tuple(f"48000/fold0{fold}/{fold}.wav" for fold in range(3)),
        {part: (f"fold{fold + 1}", (f"{fold}.wav",)) for fold, part in enumerate(("train", "val", "test"))},
    ),
    Layout(
        "esc50",
        {"meta/esc50.csv": "filename,fold,target,category\n1-1.wav,1,0,dog\n2-2.wav,2,1,rain\n3-3.wav,3,0,dog\n"},
        ("audio/1-1.wav", "audio/2-2.wav", "audio/3-3.wav"),
        {"train": ("fold1", ("1-1.wav",)), "val": ("fold2", ("2-2.wav",)), "test": ("fold3", ("3-3.wav",))},
    ),
    Layout(
        "folder",
        {},
        ("train/dog/a.wav", "val/dog/b.wav", "test/rain/c.wav"),
        {
            "train": ("train", ("train/dog/a.wav",)),
            "val": ("val", ("val/dog/b.wav",)),
            "test": ("test", ("test/rain/c.wav",)),
        },
    ),
    Layout(
        "folder",
        {"list.csv": "file,cv,is_dog,is_rain,more\na.wav,1,1,0,\nb.wav,2,0,1,wind+owl\nc.wav,3,1,1,owl\n"},
        ("a.wav", "b.wav", "c.wav"),
        {"train": ("fold1", ("a.wav",)), "val": ("fold2", ("b.wav",)), "test": ("fold3", ("c.wav",))},
        root="list.csv",
        table={
            "path_column": "file",
            "label_column": ["more"],
            "label_separator": "+",
            "one_hot_column": ["is_*"],
            "fold_column": "cv",
        },
    ),
)
"""One or more data sets of each kind."""

NAMES = tuple(f"{layout.kind}-{number}" for number, layout in enumerate(LAYOUTS))
