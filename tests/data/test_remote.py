"""Files behind a URL are fetched once, whole, and again only when the server says that they are others."""

import functools
import http.server
import os
import sys
import threading

import pytest

from bigtrain.data import remote
from bigtrain.data.text.config import TextCorpusConfig
from bigtrain.data.text.text_corpus import TextCorpus, find_files
from bigtrain.errors import DataError

from ..config.composing import composed

fsspec = pytest.importorskip("fsspec")
STORY = "It was a dark and stormy night; the rain fell in torrents. " * 20


@pytest.fixture
def server(tmp_path):
    """A folder that is read as memory://<its name>/; it notes every file that is fetched."""

    class Bucket:
        name, fetched = f"bucket-{tmp_path.name}", []

        def write(self, name, text):
            fsspec.filesystem("memory").pipe(f"/{self.name}/{name}", text.encode())

        def url(self, name=""):
            return f"memory://{self.name}/{name}"

    bucket = Bucket()
    get_file = type(fsspec.filesystem("memory")).get_file
    with pytest.MonkeyPatch.context() as patch:

        def noted(self, place, *arguments, **settings):
            bucket.fetched.append(place.rpartition("/")[2])
            return get_file(self, place, *arguments, **settings)

        patch.setattr(type(fsspec.filesystem("memory")), "get_file", noted)
        yield bucket
    if fsspec.filesystem("memory").exists(f"/{bucket.name}"):
        fsspec.filesystem("memory").rm(f"/{bucket.name}", recursive=True)


def test_a_file_a_pattern_and_a_folder_are_fetched_once(server, tmp_path):
    for name in ("b.txt", "a.txt", "deep/c.jsonl", "picture.png", ".hidden/d.txt"):
        server.write(name, f'{{"text": "{name}"}}')
    find = functools.partial(find_files, key="data.path", cache_dir=str(tmp_path))
    assert [path.name for path in find(server.url("a.txt"))] == ["a.txt"]
    assert [path.name for path in find(server.url("*.txt"))] == ["a.txt", "b.txt"]
    assert [path.name for path in find(server.url())] == ["a.txt", "b.txt", "c.jsonl"]
    assert [path.read_text() for path in find(server.url("b.*"))] == ['{"text": "b.txt"}']
    assert sorted(server.fetched) == ["a.txt", "b.txt", "c.jsonl"]
    assert not list(tmp_path.rglob(".tmp-*"))
    server.write("b.txt", "changed")
    assert find(server.url("b.txt"))[0].read_text() == "changed"
    assert server.fetched.count("b.txt") == 2


def test_a_corpus_is_the_same_wherever_its_file_lies(server, tmp_path):
    server.write("story.txt", STORY)
    (tmp_path / "story.txt").write_text(STORY)
    settings = {"sequence_length": 8, "cache_dir": str(tmp_path / "cache")}
    paths = (server.url("story.txt"), str(tmp_path / "story.txt"), f"file://{tmp_path}/story.txt")
    specs = [TextCorpus(TextCorpusConfig(path=path, **settings)).spec for path in paths]
    assert specs[0] == specs[1] == specs[2]
    assert composed("data=text_corpus", f"data.path={paths[0]}").config.data.path == paths[0]


def test_copies_are_used_where_the_server_is_gone(server, tmp_path, monkeypatch):
    server.write("a.txt", "one")
    find = functools.partial(find_files, server.url("a.txt"), "data.path", str(tmp_path))
    before = find()

    def unreachable(self, *arguments, **settings):
        raise ConnectionError("no route to https://user:hunter2@host/?token=abc")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", unreachable)
    with pytest.warns(match="can't be reached .*the copies from before are used") as caught:
        assert find() == before
    assert not any(secret in str(caught[0].message) for secret in ("hunter2", "abc"))
    before[0].unlink()
    with pytest.raises(DataError, match="DATA-REMOTE.*can't read data.path=memory://") as refused:
        find()
    assert not any(secret in str(refused.value) for secret in ("hunter2", "abc"))


def test_what_is_cut_short_or_replaced_meanwhile_is_not_kept(server, tmp_path, monkeypatch):
    server.write("a.txt", "one two")
    memory = type(fsspec.filesystem("memory"))
    get_file = memory.get_file

    def replaced(self, place, name, **settings):
        get_file(self, place, name, **settings)
        server.write("a.txt", "another")

    def shortened(self, place, name, **settings):
        get_file(self, place, name, **settings)
        os.truncate(name, 3)

    for broken in (replaced, shortened):
        monkeypatch.setattr(memory, "get_file", broken)
        with pytest.raises(DataError, match="DATA-CHANGED.*a.txt"):
            find_files(server.url("a.txt"), "data.path", str(tmp_path))
        assert not [path for path in (tmp_path / "remote").rglob("*") if path.is_file()]


def test_what_is_missing_is_said(server, tmp_path, monkeypatch):
    for url in (server.url("nothing.txt"), server.url("*.txt")):
        with pytest.raises(DataError, match="DATA-REMOTE"):
            find_files(url, "data.path", str(tmp_path))
    with pytest.raises(DataError, match="DATA-REMOTE.*no.such"):
        find_files("no.such://a", "data.path", str(tmp_path))
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(DataError, match=r"pip install 'bigtrain\[remote\]' gcsfs"):
        find_files("gs://bucket/a.txt", "data.path", str(tmp_path))


def test_over_http(tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "www").mkdir()
    (tmp_path / "www/story.txt").write_text(STORY)
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form, *arguments):
            requests.append(self.command)

    handler = functools.partial(Handler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/story.txt"
        first, again = (find_files(url, "data.path", str(tmp_path / "cache")) for _ in range(2))
        assert first == again and first[0].read_text() == STORY and first[0].name == "story.txt"
        assert requests.count("GET") == 1
        server.shutdown()


@pytest.mark.parametrize("path", ["a.txt", "/a/b.txt", "C:/a.txt", "C://a.txt", "a:b//c", "~/x"])
def test_what_is_no_url(path):
    assert not remote.is_remote(path)
