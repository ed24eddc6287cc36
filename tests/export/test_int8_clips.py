"""Calibration clips are not scored; ids and checksums of packs identify equal clips."""

import pytest

from epanns.data.batches import dataset as dataset_module
from epanns.data.batches.dataset import PackDataset
from epanns.errors import PackError
from epanns.export.int8_clips import refuse_shared
from tests.data.memory_pack import MemoryPack


@pytest.fixture
def pack(monkeypatch):
    """Make a pack in memory; the checksum of clip i is i."""

    def made(name, clip_ids, **options):
        source = MemoryPack(name, ["dog"], [[1]] * len(clip_ids), clip_ids=clip_ids, **options)
        monkeypatch.setattr(dataset_module, "open_pack", lambda *_, **__: source)
        return PackDataset([name])

    return made


def test_the_first_clip_on_both_sides_is_named_with_what_to_do(pack):
    message = (
        r"^2 of 3 evaluation clips of q calibrate too, first 'b': int8 is compared on clips that did not calibrate; "
        r"leave --evaluate out, then every 5th clip of the calibration pack is held out, or give packs that do not "
        r"overlap$"
    )
    with pytest.raises(PackError, match=message):
        refuse_shared(pack("p", ["a", "b", "c"]), [0, 1, 2], pack("q", ["x", "b", "c"]))


def test_only_rows_that_calibrate_count(pack):
    calibration, evaluation = pack("p", ["a", "b", "c"]), pack("q", ["x", "b", "c"])
    refuse_shared(calibration, [0], evaluation)
    with pytest.raises(PackError, match="1 of 3 evaluation clips of q calibrate too, first 'c'"):
        refuse_shared(calibration, [0, 2], evaluation)


def test_clips_of_equal_names_and_other_sounds_are_two_clips(pack):
    refuse_shared(pack("p", ["a", "b"]), [0, 1], pack("q", ["b", "a"]))
    with pytest.raises(PackError, match=r"2 of 2 .* calibrate too \(equal by their ids alone: .*\), first 'b'"):
        refuse_shared(pack("p", ["a", "b"]), [0, 1], pack("q", ["b", "a"], checksums=False))
