"""Published weights, from a server on this machine."""

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from telling import told

from xingaug.augmenting import FolderConfig, augment_folder
from xingaug.data.pedestrians import write_world
from xingaug.download import download
from xingaug.errors import WorkFailed
from xingaug.poses.estimators import ESTIMATORS, posenet_file, public
from xingaug.poses.estimators.public import PUBLIC, PublicWeights, fetch_weights, weights_folder

CONTENT = bytes(range(256)) * 20_000
HASH = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Gives `CONTENT` at /weights.pth, and `files` at their paths.

    Attributes:
        files: more content, by path.
        ranges: what was asked for, by request.
        stops_after: bytes after which it breaks the connection.
        knows_ranges: whether it resumes.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/weights.pth": CONTENT}
        self.ranges: list[str | None] = []
        self.stops_after: int | None = None
        self.knows_ranges = True

    @property
    def url(self) -> str:
        return self.at("/weights.pth")

    def at(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.server.knows_ranges else 0  # type: ignore[index]
        if asked and first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked and self.server.knows_ranges else 200)
        body = content[first:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.server.stops_after is None else body[: self.server.stops_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def failed(*arguments: object) -> str:
    with pytest.raises(WorkFailed) as caught:
        download(*arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "new" / "weights.pth"
    for _ in range(2):
        assert download(server.url, HASH, target) == target
        assert target.read_bytes() == CONTENT
    assert download(server.url, HASH[:8], target) == target
    assert server.ranges == [None]
    assert [path.name for path in target.parent.iterdir()] == ["weights.pth"]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_broken_download_goes_on(server: Server, tmp_path: Path, knows_ranges: bool) -> None:
    target = tmp_path / "weights.pth"
    server.stops_after, server.knows_ranges = 1_000_000, knows_ranges
    assert "(the connection ended after 1000000 of 5120000 bytes); the part so far is kept" in failed(
        server.url, HASH, target
    )
    assert not target.exists()
    server.stops_after = None
    assert download(server.url, HASH, target).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-"]


def test_a_whole_part_needs_nothing_more(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(CONTENT)
    assert download(server.url, HASH, tmp_path / "weights.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"", b"other bytes", CONTENT + b"more"])
def test_another_file_is_not_kept(server: Server, tmp_path: Path, part: bytes) -> None:
    target = tmp_path / "weights.pth"
    wrong = HASH if part else "0" * 64
    (tmp_path / "weights.pth.part").write_bytes(part)
    said = failed(server.url, wrong, target)
    assert f"needed {wrong}; it was not kept" in said
    assert not target.exists()
    assert not (tmp_path / "weights.pth.part").exists()
    assert download(server.url, HASH, target).read_bytes() == CONTENT  # from its start


def test_a_damaged_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"damaged")
    assert download(server.url, HASH, tmp_path / "weights.pth").read_bytes() == CONTENT


def test_without_a_network_it_is_one_line(server: Server, tmp_path: Path) -> None:
    assert "(the server says 404); it needs a network; or" in failed(f"{server.url}x", HASH, tmp_path / "a")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    said = failed(f"http://127.0.0.1:{port}/a.pth", HASH, tmp_path / "a")
    assert "(Connection refused); it needs a network; or fetch the file elsewhere and name its path" in said
    assert "cannot be fetched (" in failed("https://nowhere.invalid/a.pth", HASH, tmp_path / "a")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "a.pth", "https://", "http:///a", "https://[::1/a"])
def test_other_addresses_are_refused(url: str, tmp_path: Path) -> None:
    assert "no address to fetch from; needed https://" in told(download, url, HASH, tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sha256", ["", "abc", "g" * 64, "A" * 64, "a" * 65])
def test_a_hash_must_be_one(sha256: str, tmp_path: Path) -> None:
    assert "needed 64 hexadecimal digits" in told(download, "https://a.invalid/b", sha256, tmp_path / "a")


def archive(method: int = zipfile.ZIP_DEFLATED, **files: bytes) -> bytes:
    """A .zip of files `NAME.onnx` in a folder, beside a text and macOS's notes on them."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as opened:
        opened.writestr("sdk/readme.txt", "about")
        for name, content in files.items():
            opened.writestr(f"sdk/{name}.onnx", content)
            opened.writestr(f"__MACOSX/sdk/._{name}.onnx", b"notes")
    return stream.getvalue()


def test_the_network_in_an_archive_is_kept_under_its_own_hash(server: Server, tmp_path: Path) -> None:
    server.files["/sdk.ZIP"] = archive(end2end=CONTENT)
    target = tmp_path / "sdk.onnx"
    server.stops_after = 1000
    assert "the part so far is kept" in failed(server.at("/sdk.ZIP"), HASH, target)
    server.stops_after = None
    for _ in range(2):  # goes on with the part, then needs nothing more
        assert download(server.at("/sdk.ZIP"), HASH, target).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["sdk.onnx"]
    assert "it was not kept" in failed(server.at("/sdk.ZIP"), "0" * 64, tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx.part").exists()
    assert download(server.at("/sdk.ZIP"), hashlib.sha256(server.files["/sdk.ZIP"]).hexdigest(), tmp_path / "a.zip")


def test_a_stop_while_unpacking_keeps_the_archive(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    server.files["/sdk.zip"] = archive(end2end=CONTENT)
    with monkeypatch.context() as patched:
        patched.setattr("xingaug.download.shutil.copyfileobj", stop)
        with pytest.raises(KeyboardInterrupt):
            download(server.at("/sdk.zip"), HASH, tmp_path / "sdk.onnx")
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["sdk.onnx.part"]
    assert download(server.at("/sdk.zip"), HASH, tmp_path / "sdk.onnx").read_bytes() == CONTENT


def damaged(method: int) -> bytes:
    """An archive with another byte in the compressed data."""
    content = bytearray(archive(method, end2end=CONTENT))
    content[200] ^= 255
    return bytes(content)


WHOLE = archive(end2end=CONTENT)


@pytest.mark.parametrize(
    "content",
    [
        archive(), archive(a=CONTENT, b=CONTENT), b"<html>", b"", WHOLE[:-30], WHOLE[1000:],
        damaged(zipfile.ZIP_DEFLATED), damaged(zipfile.ZIP_BZIP2), damaged(zipfile.ZIP_LZMA),
    ],
    ids=["none", "two", "page", "empty", "cut", "headless", "deflated", "bzip2", "lzma"],
)  # fmt: skip
def test_an_archive_without_one_network_is_not_kept(server: Server, tmp_path: Path, content: bytes) -> None:
    server.files["/sdk.zip"] = content
    for _ in range(2):
        said = failed(server.at("/sdk.zip"), HASH, tmp_path / "sdk.onnx")
        assert "gave no .zip with one .onnx in it; it was not kept" in said
        assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    assert len(server.ranges) == 2


def test_the_table_is_of_what_is_read() -> None:
    for one in PUBLIC:
        assert one.estimator in ESTIMATORS
        assert one.url.startswith("https://")
        assert re.fullmatch(r"[0-9a-f]{8,64}", one.sha256)
        assert one.licence
        assert Path(one.file).suffix in (".pth", ".onnx")
    assert len({one.file for one in PUBLIC}) == len(PUBLIC)


def test_published_weights_are_fetched_by_estimator_or_name(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.files |= {"/light.onnx": b"light", "/sdk.zip": archive(end2end=b"pose")}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table = [
        PublicWeights("movenet", server.url, HASH, "none"),
        PublicWeights("movenet", server.at("/light.onnx"), hashlib.sha256(b"light").hexdigest(), "none"),
        PublicWeights("rtmpose", server.at("/sdk.zip"), hashlib.sha256(b"pose").hexdigest(), "none"),
    ]
    monkeypatch.setattr(public, "PUBLIC", tuple(table))
    assert (
        fetch_weights("movenet") == weights_folder() / "weights.pth" == tmp_path / "xingaug" / "weights" / "weights.pth"
    )
    assert weights_folder().joinpath("weights.pth").read_bytes() == CONTENT
    assert fetch_weights("movenet", "light.onnx").read_bytes() == b"light"
    assert fetch_weights("rtmpose") == weights_folder() / "sdk.onnx"
    assert weights_folder().joinpath("sdk.onnx").read_bytes() == b"pose"
    assert fetch_weights("rtmpose", server.url, HASH).read_bytes() == CONTENT
    assert fetch_weights("vitpose", server.at("/sdk.zip"), table[2].sha256).name == f"{table[2].sha256[:8]}-sdk.onnx"
    assert "no published weights of 'vitpose' are known with their hash (only of movenet, rtmpose)" in told(
        fetch_weights, "vitpose"
    )
    assert "'light' is no address and none of the published weights of 'movenet': weights.pth, light.onnx" in told(
        fetch_weights, "movenet", "light"
    )
    assert "needed --sha256" in told(fetch_weights, "vitpose", server.url)


def test_augment_finds_keypoints_by_downloaded_weights(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = posenet_file("posenet-pedestrians").read_bytes()
    server.files["/pose.safetensors"] = content
    weights = PublicWeights("posenet", server.at("/pose.safetensors"), hashlib.sha256(content).hexdigest(), "MIT")
    monkeypatch.setattr(public, "PUBLIC", (weights,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    world = tmp_path / "world"
    write_world(world, 4, 2, 1, workers=1, progress=False)
    config = FolderConfig(
        world, tmp_path / "out", estimator="posenet", download=True, generator="pedestrians-small",
        generating={"budget": 2},
    )  # fmt: skip
    augment_folder(config)
    assert "keypoints: found by posenet pose.safetensors" in capsys.readouterr().err
    assert [path.name for path in weights_folder().iterdir()] == ["pose.safetensors"]
