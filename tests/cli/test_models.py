"""`epanns models`: the zoo with published sizes, and the released files."""

import json
from functools import partial

from epanns.cli.models import command
from epanns.models.files.download import released_files
from epanns.models.zoo import list_models
from tests.builders import output_of

run = partial(output_of, command)


def test_json_lists_the_zoo_and_the_released_files() -> None:
    result = json.loads(run("--json"))
    assert [row["name"] for row in result["models"]] == list_models()
    cnn14 = result["models"][list_models().index("Cnn14")]
    assert cnn14 == {
        "name": "Cnn14",
        "sample_rate": 32_000,
        "n_params": 80_753_615,
        "backbone_macs": 20_041_926_656,
        "clip_seconds": 10.0,
    }
    assert [file["name"] for file in result["released"]] == [file.name for file in released_files()]


def test_text_has_a_row_per_network_and_file() -> None:
    lines = run().splitlines()
    for name in (*list_models(), *(file.name for file in released_files())):
        assert any(line.startswith(name + " ") for line in lines)
    assert any("Cnn14 " in line and "80,753,615" in line and "20.042 G" in line for line in lines)
    assert any("checkpoint_closeto_.44.pt" in line and "unknown" in line for line in lines)
    assert any(line.startswith("ResNet38_mAP=0.434.pth ") and line.endswith(" ResNet38") for line in lines)
