import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from epanns import atomic
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs import verification
from epanns.data.packs.verification import Verification, verify_contained, verify_pack
from epanns.labels import LabelSet
from tests.data.conftest import SETTINGS
from tests.data.mp3_file import CLASSES as MP3_CLASSES
from tests.data.mp3_file import encoded, write_mp3_file
from tests.data.panns_files import CLASSES as PANNS_CLASSES
from tests.data.panns_files import clip_names, write_waveforms
from tests.data.signed_headers import with_byte


def test_a_whole_pack_has_no_problems_and_every_clip_is_counted(made):
    seen = []
    found = verify_pack(made / "pack", progress=lambda done, total: seen.append((done, total)))
    assert found == Verification((), (), 20)
    assert list(dict.fromkeys(seen)) == [(done, 20) for done in range(21)]


def test_a_damaged_clip_is_listed_and_the_others_are_still_checked(own):
    for name, row in (("shard-00000.h5", 2), ("shard-00002.h5", 3)):
        path = own / "pack" / name
        with h5py.File(path) as file:
            place = file["waveform"].id.get_chunk_info(row).byte_offset
        content = bytearray(path.read_bytes())
        content[place + 9] ^= 4
        path.write_bytes(content)
    problems = verify_pack(own / "pack").problems
    assert len(problems) == 4
    assert "shard-00000.h5: its sha256 is not the one in pack.json: the file has changed" in problems[0]
    assert problems[1].startswith("clip 'clip-000002.wav': ")
    assert problems[3].startswith("clip 'clip-000019.wav': ")


def test_a_cut_shard_is_listed_and_the_others_are_still_checked(own):
    path = own / "pack" / "shard-00001.h5"
    path.write_bytes(path.read_bytes()[:-1])
    (own / "pack" / "shard-00002.h5").unlink()
    problems = verify_pack(own / "pack").problems
    assert len(problems) == 3
    assert "the file has changed" in problems[0]
    assert "shard-00001.h5: file: " in problems[1]
    assert "shard-00002.h5: this file of the pack is missing" in problems[2]


def test_sound_in_the_padding_is_found(own):
    path = own / "pack" / "shard-00000.h5"
    with h5py.File(path, "r+") as file:
        file["n_samples"][0] = 10
    update_checksum(own / "pack", 0)
    (problem,) = verify_pack(own / "pack").problems
    assert "row 0 has sound after its 10 samples" in problem


def update_checksum(pack, number):
    info = json.loads((pack / "pack.json").read_text())
    info["shards"][number]["sha256"] = atomic.sha256_of(pack / info["shards"][number]["file"])
    (pack / "pack.json").write_text(json.dumps(info))


def test_an_id_in_two_shards_is_found(own):
    with h5py.File(own / "pack" / "shard-00001.h5", "r+") as file:
        file["audio_name"][0] = np.array(b"clip-000000.wav", file["audio_name"].dtype)
    update_checksum(own / "pack", 1)
    (problem,) = verify_pack(own / "pack").problems
    assert problem.endswith("clip 'clip-000000.wav' is in shard-00000.h5 too; pack again")


def test_files_that_do_not_belong_or_are_missing_are_found(own):
    (own / "pack" / "shard-00009.h5").touch()
    (own / "pack" / "journal.jsonl").unlink()
    problems = verify_pack(own / "pack").problems
    assert len(problems) == 2
    assert "shard-00009.h5: is no part of the pack; remove it" in problems[0]
    assert "journal.jsonl: is missing; copy the pack again or pack again" in problems[1]


def test_a_list_of_rejects_of_another_length_is_found(own):
    with (own / "pack" / "rejects.csv").open("a") as file:
        file.write("x,y,z\n")
    (problem,) = verify_pack(own / "pack").problems
    assert "rejects.csv: lists 1 clips, pack.json counts 0 rejected" in problem


def test_a_path_that_is_no_pack_is_one_problem(tmp_path):
    (problem,) = verify_pack(tmp_path).problems
    assert "has no pack.json, so it is no pack" in problem


def test_problems_are_listed_up_to_a_number_and_counted_beyond(own, monkeypatch):
    pack = own / "pack"
    for number in range(5):
        (pack / f"other{number}").touch()
    monkeypatch.setattr(verification, "MOST_PROBLEMS", 3)
    told = []
    found = verify_pack(pack, log=told.append)
    assert (len(found.problems), found.unlisted, found.clips) == (3, 2, 20)
    assert tuple(told) == found.problems


@pytest.mark.parametrize("format", ["epanns", "panns"])
def test_a_pack_without_clips_is_a_problem_in_every_format(own, tmp_path, format):
    for sound in (own / "set").rglob("*.wav"):
        sound.write_bytes(b"no sound")
    pack_manifest(own / "set.csv", tmp_path / "pack", replace(SETTINGS, format=format), max_bad=1.0)
    found = verify_pack(tmp_path / "pack")
    assert found.problems == (
        f"{tmp_path / 'pack'}: holds no clips; every one was rejected or missing, see its rejects.csv",
    )


def test_the_check_in_a_child_process_has_the_same_result(own):
    seen = []
    pack = own / "pack"
    found = verify_contained(pack, progress=lambda done, total: seen.append((done, total)))
    assert found == verify_pack(pack) == Verification((), (), 20)
    assert seen[-1] == (20, 20)
    (pack / "shard-00001.h5").unlink()
    assert verify_contained(pack) == verify_pack(pack)


def test_lack_of_memory_is_a_problem(made):
    (problem,) = verify_contained(made / "pack", memory_limit=1 << 12).problems
    assert re.search(
        r"pack: the check .* after 0 clips; a file is damaged or made to do harm: .* --memory-limit", problem
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *arguments, **options: signal.raise_signal(signal.SIGKILL), "crashed with signal SIGKILL"),
        (lambda *arguments, **options: os._exit(7), "ended with exit code 7"),
        (lambda *arguments, **options: bytearray(2 << 30), "needs more than 1 GiB of memory"),
        (lambda *arguments, **options: int("x"), "failed with ValueError: invalid literal"),
        (lambda *arguments, **options: time.sleep(300), r"was ended after 0\.5 s without progress"),
    ],
)
def test_every_end_of_the_child_is_a_problem(made, monkeypatch, function, message):
    """Fork this process instead of spawning one, so that the child has the replaced `verify_pack`."""
    monkeypatch.setattr(verification, "verify_pack", function)
    monkeypatch.setattr(verification, "PATIENCE", 0.5 if "without" in message else 60)
    monkeypatch.setattr(
        multiprocessing, "get_context", lambda method, original=multiprocessing.get_context: original("fork")
    )
    (problem,) = verify_contained(made / "pack", memory_limit=1 << 30).problems
    assert re.search(f"pack: the check {message}.* after 0 clips; a file is damaged", problem)


INTERRUPTED = """
import sys
from pathlib import Path
from epanns.data.packs.verification import verify_contained
if __name__ == "__main__":
    verify_contained(Path(sys.argv[1]))
"""


def children_of(parent):
    """Ids of the processes of a session except its first; without Python's resource tracker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            session = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[3])
            command = folder.joinpath("cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if session == parent and int(folder.name) != parent and b"spawn_main" in command:
            found.append(int(folder.name))
    return found


def test_ctrl_c_ends_both_processes(made, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    with subprocess.Popen(
        [sys.executable, script, made / "pack"], start_new_session=True, stderr=subprocess.PIPE
    ) as process:
        while not children_of(process.pid):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
    deadline = time.monotonic() + 10
    while children_of(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_file_that_crashes_hdf5_is_a_problem(own):
    """HDF5 2.0.0 divides by the number of a chunk's dimensions, which is 0 in this shard."""
    shard = own / "pack" / "shard-00001.h5"
    whole = shard.read_bytes()
    rows, chunked_in_two_dimensions = 8, bytes((4, 2, 2, 2, 1))
    place = whole.index(chunked_in_two_dimensions + bytes((rows, 4)))
    shard.write_bytes(with_byte(whole, place + 3, 0))
    problems = verify_contained(own / "pack").problems
    assert re.search(r"/pack: the check crashed with signal SIGFPE after 8 clips|shard-00001\.h5: \w+: ", problems[-1])


def test_packs_without_checksums_are_read_with_a_remark(tmp_path):
    missing = clip_names(7)[2]
    path = write_waveforms(tmp_path / "eval.h5", clip_names(7), missing={missing})
    found = verify_pack(path, labels=LabelSet.numbered(PANNS_CLASSES))
    assert (found.problems, found.clips) == ((), 6)
    assert "eval.h5: has no checksums, as PANNs made it" in found.remarks[0]
    assert "eval.h5: 1 row holds nothing, the sound was missing when it was packed: left out" in found.remarks[1]


def test_an_mp3_that_does_not_decode_is_listed_and_the_others_are_read(tmp_path):
    contents = [encoded(0.2, 440), b"no sound" * 50, encoded(0.2, 300)]
    path = write_mp3_file(tmp_path / "x.hdf", ["a.mp3", "b.mp3", "c.mp3"], contents, np.eye(3, MP3_CLASSES))
    found = verify_pack(path, labels=LabelSet.numbered(MP3_CLASSES))
    (problem,) = found.problems
    assert problem.startswith("clip 'b.mp3': ")
    assert found.clips == 3
    assert "x.hdf: has no checksums: a damaged MP3 is noticed only if it does not decode" in found.remarks[0]


@pytest.fixture
def panns_pack(made, tmp_path):
    pack_manifest(made / "set.csv", tmp_path / "pack", replace(SETTINGS, format="panns"))
    return tmp_path / "pack"


def test_a_pack_of_epanns_in_panns_format_is_checked_by_its_sha256(panns_pack):
    assert verify_pack(panns_pack) == Verification((), (), 20)
    part = panns_pack / "waveforms" / "part00001.h5"
    with h5py.File(part) as file:
        place = file["waveform"].id.get_offset()
    content = bytearray(part.read_bytes())
    content[place + 1000] ^= 1
    part.write_bytes(content)
    (problem,) = verify_pack(panns_pack).problems
    assert "waveforms/part00001.h5: its sha256 is not the one in pack.json: the file has changed" in problem


def test_the_index_of_a_pack_in_pannss_format_is_checked_too(panns_pack):
    index = panns_pack / "indexes" / "all.h5"
    with h5py.File(index, "r+") as file:
        file["audio_name"][3] = b"other"
    (problem,) = verify_pack(panns_pack).problems
    assert re.search(r"indexes/all\.h5: row 3: is 'other', the row it names in .* is 'clip-000003\.wav'", problem)
    index.unlink()
    assert any("indexes/all.h5: is missing" in problem for problem in verify_pack(panns_pack).problems)
