"""Downloads against a server on this machine: whole, cut, resumed, wrong, refused, absent."""

import errno
import fcntl
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from epanns.errors import CheckpointError, OutputError
from epanns.feedback import Note
from epanns.models.files.download import ReleasedFile, cache_folder, fetch, released_file, released_files
from epanns.models.zoo import ZOO

CONTENT = bytes(range(256)) * 4096  # 1 MiB
ROOT = Path(__file__).parents[3]


class Server(ThreadingHTTPServer):
    """Serves `CONTENT`; `requests` notes the Range header of each request.

    Attributes:
        knows_ranges: Whether a Range header is honoured.
        cut_after: Bytes after which the next answer's connection closes.
        says_length: Whether the answer states how long it is.
        etag: Validator of the content, sent where it is not empty.
        heeds_if_range: Whether a range of another version than the one asked for is answered by the whole file.
        conditions: The If-Range header of each request.
        longest_part: Bytes that an answer to a range has at most, None for all.
        content_type: Of each answer.
        before_answer: Called in the middle of each answer's body.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.requests: list[str | None] = []
        self.knows_ranges = True
        self.cut_after: int | None = None
        self.says_length = True
        self.etag = ""
        self.heeds_if_range = True
        self.conditions: list[str | None] = []
        self.longest_part: int | None = None
        self.content_type = "application/octet-stream"
        self.before_answer: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.pth?download=1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:  # noqa: N802 (the base class's name)
        server, wanted = self.server, self.headers["Range"]
        server.requests.append(wanted)
        if not self.path.startswith("/weights.pth"):
            self.send_error(404)
            return
        condition = self.headers["If-Range"]
        server.conditions.append(condition)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.knows_ranges else 0
        if condition not in (None, server.etag) and server.heeds_if_range:
            start = 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:][: server.longest_part if start else None]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(server.content)}")
        self.send_header("Content-Type", server.content_type)
        if server.says_length:
            self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        end, server.cut_after = server.cut_after, None
        self.wfile.write(body[: len(body) // 2][:end])
        server.before_answer()
        self.wfile.write(body[len(body) // 2 :][: None if end is None else max(0, end - len(body) // 2)])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def published(server: Server, **changes: object) -> ReleasedFile:
    digest = hashlib.sha256(CONTENT).hexdigest()
    file = ReleasedFile("weights.pth", "Cnn14", "Cnn14", 0.431, server.url, len(CONTENT), digest, "see the page")
    return replace(file, **changes)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_fetch_downloads_checks_and_renames(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(published(server), tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert names(tmp_path / "cache") == ["weights.pth"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_fetch_downloads_once(server: Server, tmp_path: Path) -> None:
    assert fetch(published(server), tmp_path) == fetch(published(server), tmp_path)
    assert len(server.requests) == 1


def test_a_cut_connection_keeps_the_part_and_the_next_call_resumes(server: Server, tmp_path: Path) -> None:
    server.cut_after = 700_000
    with pytest.raises(CheckpointError, match=r"the connection (ended after|broke).*; run the command again to resume"):
        fetch(published(server), tmp_path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [CONTENT[:700_000]]
    assert names(tmp_path) == ["weights.pth.part"]
    seen: list[tuple[int, int | None]] = []
    path = fetch(published(server), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=700000-"]
    assert seen[0][0] > 700_000
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(CONTENT[:1000])
    server.knows_ranges = False
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT


def test_a_complete_part_is_checked_without_a_request(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(CONTENT)
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == []


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_that_the_server_cannot_extend_is_downloaded_again(length: int, server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(bytes(length))
    assert fetch(published(server, bytes=None), tmp_path).read_bytes() == CONTENT
    assert server.requests == [f"bytes={length}-", None]


def test_a_part_longer_than_the_file_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(bytes(len(CONTENT) + 5))
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sha256": "0" * 64},
            rf"sha256 {hashlib.sha256(CONTENT).hexdigest()}, must be 0{{64}}\) and was deleted: run",
        ),
        ({"bytes": 1000}, r"262,144 bytes, must be 1,000\) and was deleted"),
    ],
    ids=["checksum", "length"],
)
def test_bytes_other_than_the_published_ones_are_deleted(
    changes: dict[str, object], message: str, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"what arrived is not the published file \(" + message):
        fetch(published(server, **changes), tmp_path)
    assert names(tmp_path) == []


def test_file_of_unknown_length_and_checksum_is_accepted_whole(server: Server, tmp_path: Path) -> None:
    unknown = published(server, bytes=None, sha256=None)
    server.cut_after = 5000
    with pytest.raises(CheckpointError, match=r"run the command again"):
        fetch(unknown, tmp_path)
    assert fetch(unknown, tmp_path).read_bytes() == CONTENT


def test_without_a_stated_length_the_length_of_the_catalogue_counts(server: Server, tmp_path: Path) -> None:
    server.says_length = False
    server.cut_after = 5000
    with pytest.raises(CheckpointError, match=r"the connection ended after 5,000 of 1,048,576 bytes; run the command"):
        fetch(published(server), tmp_path)
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT


def cut(server: Server, file: ReleasedFile, folder: Path, length: int = 700_000) -> None:
    """Leave a part of a file."""
    server.cut_after = length
    with pytest.raises(CheckpointError, match="run the command again to resume"):
        fetch(file, folder)


OTHER = CONTENT[::-1]


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("has_sha256", [True, False])
def test_versions_are_not_mixed(has_sha256: bool, heeds_if_range: bool, server: Server, tmp_path: Path) -> None:
    known = {"sha256": hashlib.sha256(OTHER).hexdigest()} if has_sha256 else {"sha256": None, "bytes": None}
    file = published(server, **known)
    server.etag, server.heeds_if_range = '"one"', heeds_if_range
    cut(server, file, tmp_path)
    server.etag, server.content = '"two"', OTHER
    assert fetch(file, tmp_path).read_bytes() == OTHER
    assert server.conditions[:2] == [None, '"one"']
    assert names(tmp_path) == ["weights.pth"]


def test_an_unchanged_version_without_a_sha256_is_resumed(server: Server, tmp_path: Path) -> None:
    file = published(server, bytes=None, sha256=None)
    server.etag = '"one"'
    cut(server, file, tmp_path)
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=700000-"]


@pytest.mark.parametrize("known", [{}, {"sha256": None}, {"bytes": None}, {"sha256": None, "bytes": None}])
def test_a_partial_answer_is_not_taken_for_the_whole_rest(known: dict, server: Server, tmp_path: Path) -> None:
    file = published(server, **known)
    server.etag, server.longest_part = '"one"', 300_000
    cut(server, file, tmp_path)
    with pytest.raises(CheckpointError, match=r"ended after 1,000,000 of 1,048,576 bytes; run the command again"):
        fetch(file, tmp_path)
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=700000-", "bytes=1000000-"]


def test_a_web_page_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(CheckpointError, match=r"the server answered with a web page, as a login to a network does; "):
        fetch(published(server, bytes=None, sha256=None), tmp_path)
    assert names(tmp_path) == []
    server.content_type = "application/octet-stream"
    assert fetch(published(server, bytes=None, sha256=None), tmp_path).read_bytes() == CONTENT


def test_without_validator_and_sha256_nothing_is_resumed(server: Server, tmp_path: Path) -> None:
    file = published(server, bytes=None, sha256=None)
    server.etag = 'W/"weak"'
    cut(server, file, tmp_path)
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, None]


@pytest.mark.parametrize(
    "stored", ["", "[]", '{"url": "x", "validator": "y"}', '{"validator": "a\\r\\nB: c"}', "[" * 5000]
)
def test_a_damaged_validator_is_ignored(stored: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(OTHER[:1000])
    (tmp_path / "weights.pth.part.json").write_text(stored)
    assert fetch(published(server, sha256=None), tmp_path).read_bytes() == CONTENT
    assert server.conditions == [None]
    assert names(tmp_path) == ["weights.pth"]


def test_an_answer_is_not_kept_if_neither_server_nor_catalogue_states_its_length(
    server: Server, tmp_path: Path
) -> None:
    server.says_length = False
    for cut_after in (5000, None):
        server.cut_after = cut_after
        with pytest.raises(CheckpointError, match=r" bytes arrived, and neither server nor catalogue states how many"):
            fetch(published(server, bytes=None, sha256=None), tmp_path)
        assert names(tmp_path) == []
    assert fetch(published(server, bytes=None), tmp_path).read_bytes() == CONTENT


def test_a_file_in_the_cache_is_compared_with_its_sha256_each_time(server: Server, tmp_path: Path) -> None:
    path = fetch(published(server), tmp_path)
    path.write_bytes(OTHER)
    with pytest.warns(
        Note, match=rf"weights.pth: sha256 {hashlib.sha256(OTHER).hexdigest()}, must be .* and is replaced"
    ):
        assert fetch(published(server), tmp_path).read_bytes() == CONTENT
    path.write_bytes(OTHER)
    server.shutdown()
    server.server_close()
    with pytest.warns(Note), pytest.raises(CheckpointError, match="no connection"):
        fetch(published(server), tmp_path)


@pytest.mark.filterwarnings("ignore::epanns.feedback.Note")
def test_two_concurrent_downloads_make_one_request(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch(published(server), tmp_path), range(2)))
    assert [path.read_bytes() for path in paths] == [CONTENT] * 2
    assert server.requests == [None]
    assert names(tmp_path) == ["weights.pth"]


def test_without_locks_of_the_file_system_a_part_is_resumed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / "weights.pth.part").write_bytes(CONTENT[:1000])
    with pytest.warns(Note, match="its file system has no locks"):
        assert fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]
    assert names(tmp_path) == ["weights.pth"]


def test_an_error_answer_of_the_server_has_a_remedy(server: Server, tmp_path: Path) -> None:
    missing = published(server, url=server.url.replace("weights", "other"))
    with pytest.raises(CheckpointError, match=r"other.pth.*: the server answered 404 Not Found; .*epanns import FILE"):
        fetch(missing, tmp_path)
    assert names(tmp_path) == []


def test_without_a_network_the_message_explains_the_download_by_hand(server: Server, tmp_path: Path) -> None:
    file = published(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(
        CheckpointError, match=r"no connection \(.*refused\); .*download the file by hand.*epanns import"
    ):
        fetch(file, tmp_path)


def test_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=re.escape(f"{tmp_path / 'file'}: cannot be written")):
        fetch(published(server), tmp_path / "file")


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EPANNS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("EPANNS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "epanns-pruning"


def test_catalogue_lists_22_files_of_panns_that_of_epanns_and_8_of_efficientat() -> None:
    efficientat = [file for file in released_files() if file.network.startswith("mn")]
    assert [file.model for file in efficientat] == [f"{file.network}_as" for file in efficientat]
    assert {file.network for file in efficientat} == {name for name in ZOO if name.startswith("mn")}
    others = [file for file in released_files() if file not in efficientat]
    *panns, epanns = sorted(others, key=lambda file: file.model == "E-PANNs")
    assert len(panns) == 22
    for file in panns:
        assert file.url == f"https://zenodo.org/record/3987831/files/{file.name}?download=1"
        assert file.name == f"{file.model}_mAP={file.mAP:.3f}.pth"
        assert re.fullmatch("[0-9a-f]{64}", str(file.sha256))
        assert file.bytes
        assert file.network == file.model
    assert epanns.url == "https://zenodo.org/records/7939403/files/checkpoint_closeto_.44.pt?download=1"
    assert (epanns.bytes, epanns.sha256) == (None, None)
    assert {file.network for file in released_files()} <= ZOO.keys()


def test_catalogue_has_the_known_facts_of_cnn14() -> None:
    file = released_file("Cnn14")
    assert file == released_file("Cnn14_mAP=0.431.pth")
    assert file.bytes == 327_428_481
    assert file.sha256 == "0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31"


def test_manifest_of_the_repository_is_the_one_that_is_installed() -> None:
    manifest = (ROOT / "checkpoints" / "manifest.json").read_text()
    assert manifest == (ROOT / "epanns" / "models" / "files" / "released_files.json").read_text()
    assert json.loads(manifest)["format"] == "epanns-released-files/1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Cnn14_mAP=0.432.pth",
            r"neither a file nor a released one \(did you mean 'Cnn14_mAP=0.431.pth'\?\); `epanns m",
        ),
    ],
)
def test_name_that_cannot_be_downloaded_is_refused(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        released_file(name)
