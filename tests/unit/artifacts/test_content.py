import hashlib
import json
import os
import shutil
import time

import pytest

from lm_headroom.artifacts import content
from lm_headroom.artifacts.content import Digests
from lm_headroom.errors import HeadroomError


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are read as a whole, in order; files of four bytes count as large."""
    monkeypatch.setattr(content, "SMALL", 3)
    opened = []
    original = hashlib.file_digest

    def counted(file, name):
        opened.append(os.path.basename(file.name))
        return original(file, name)

    monkeypatch.setattr(content.hashlib, "file_digest", counted)
    return opened


def settle():
    """Longer than the clock of a file system stands still."""
    time.sleep(1.5 * content.SETTLED / 1e9)


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "disk" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"0123456789")
    settle()
    return path


def kept(path, store):
    digests = Digests(store)
    digests.digest_file(path)
    digests.keep()


def test_a_file_is_read_once_by_all_processes(large, tmp_path, reads):
    store = tmp_path / "store.json"
    kept(large, store)
    assert Digests(store).digest_file(large) == sha256(b"0123456789")
    assert reads == ["model.safetensors"]


def test_a_moved_folder_is_not_read_again(large, tmp_path, reads):
    kept(large, tmp_path / "store.json")
    large.parent.rename(tmp_path / "other disk")
    assert Digests(tmp_path / "store.json").digest_file(tmp_path / "other disk" / large.name) == sha256(b"0123456789")
    assert len(reads) == 1


def changed_in_place(path):
    with path.open("r+b") as file:
        file.write(b"X")


def replaced_by_an_older_file(path):
    other = path.with_name("other")
    other.write_bytes(b"X123456789")
    os.utime(other, (1, 1))
    shutil.copy2(other, path)


def replaced_by_a_link(path):
    other = path.with_name("other")
    other.write_bytes(b"X123456789")
    path.unlink()
    path.symlink_to(other)


def renamed_over(path):
    other = path.with_name("other")
    other.write_bytes(b"X123456789")
    other.replace(path)


@pytest.mark.parametrize("change", [changed_in_place, replaced_by_an_older_file, replaced_by_a_link, renamed_over])
def test_other_content_of_the_same_size_and_time_is_seen(large, tmp_path, reads, change):
    store = tmp_path / "store.json"
    kept(large, store)
    before = large.stat()
    change(large)
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert large.stat().st_size == before.st_size
    assert Digests(store).digest_file(large) == sha256(b"X123456789")


def test_nothing_is_written_until_asked(large, tmp_path, reads):
    digests = Digests(tmp_path / "deep" / "store.json")
    digests.digest_file(large)
    assert not (tmp_path / "deep").exists()
    digests.keep()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["store.json"], "no partial file is left"
    before = (tmp_path / "deep" / "store.json").stat()
    again = Digests(tmp_path / "deep" / "store.json")
    again.digest_file(large)
    again.keep()
    assert (tmp_path / "deep" / "store.json").stat() == before, "nothing was added"


def test_what_changed_a_moment_ago_is_not_kept(tmp_path, reads, monkeypatch):
    """A second change within a tick of the clock would not show."""
    monkeypatch.setattr(content, "SETTLED", 10**12)
    path = tmp_path / "fresh"
    path.write_bytes(b"0123456789")
    kept(path, tmp_path / "store.json")
    assert not (tmp_path / "store.json").exists()


def test_small_files_are_read_each_time(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"{}")
    settle()
    kept(path, tmp_path / "store.json")
    assert not (tmp_path / "store.json").exists()


def test_a_forged_digest_is_not_believed(large, tmp_path, reads):
    store = tmp_path / "store.json"
    kept(large, store)
    changed_in_place(large)
    settle()
    (digest, seal), *_ = json.loads(store.read_text()).values()
    now = large.stat()
    key = f"{large.name} {now.st_size} {now.st_mtime_ns} {now.st_ctime_ns} {now.st_ino}"
    store.write_text(json.dumps({key: [digest, seal]}))
    assert Digests(store).digest_file(large) == sha256(b"X123456789")


@pytest.mark.parametrize(
    "damage",
    [b"", b"[]", b"\xff", b"{", b'{"a": 1}', b'{"a": [1, 2]}', b'{"a": [[], {}, 3]}', b"[" * 100_000],
)
def test_a_damaged_store_costs_time_alone(large, tmp_path, reads, damage):
    store = tmp_path / "store.json"
    store.write_bytes(damage)
    kept(large, store)
    assert Digests(store).digest_file(large) == sha256(b"0123456789")
    assert len(reads) == 1


def test_processes_add_to_one_store(large, tmp_path, reads):
    store = tmp_path / "store.json"
    other = tmp_path / "other"
    other.write_bytes(b"abcdef")
    settle()
    first, second = Digests(store), Digests(store)
    first.digest_file(large)
    second.digest_file(other)
    first.keep()
    second.keep()
    third = Digests(store)
    third.digest_file(large), third.digest_file(other)
    assert len(reads) == 2


def test_a_folder_that_cannot_be_written_is_no_error(large, tmp_path, reads):
    (tmp_path / "file").touch()
    kept(large, tmp_path / "file" / "store.json")


def test_what_is_no_file_is_refused_in_a_sentence(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HeadroomError, match="pipe is not a regular file"):
        Digests().digest_file(tmp_path / "pipe")
    with pytest.raises(HeadroomError, match="is not a regular file"):
        Digests().digest_file(tmp_path)
    with pytest.raises(HeadroomError, match="cannot be read .No such file"):
        Digests().digest_file(tmp_path / "none")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(HeadroomError, match="cannot be read"):
        Digests().digest_file(tmp_path / "loop")
