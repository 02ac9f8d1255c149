"""Finished units are kept, found again where everything matches, and nowhere else."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from lm_headroom.artifacts.store import write_json
from lm_headroom.engine import likelihood, resume_cache
from lm_headroom.engine.likelihood import likelihoods
from lm_headroom.engine.loading import gates_without, prepare
from lm_headroom.engine.packing import Batches, Document, TokenSequence
from lm_headroom.engine.resume_cache import ResumeCache, digest, open_cache
from lm_headroom.errors import HeadroomError
from lm_headroom.progress import Progress
from lm_headroom.scoring import gradient
from lm_headroom.scoring import prefix_matching as prefix_matching_module
from lm_headroom.scoring.copying import copying
from lm_headroom.scoring.gradient import contributions
from lm_headroom.scoring.knockout import knock_out_ffns
from lm_headroom.scoring.prefix_matching import prefix_matching
from tests.support.tiny_models import tiny_model


def documents(n=9, seed=3):
    """Two choices each; the gold ones alone where one row is asked for."""
    rng = np.random.default_rng(seed)

    def row(start, length):
        return TokenSequence((*start, *rng.integers(3, 500, length).tolist()), length)

    starts = [tuple(rng.integers(3, 500, 6 + i).tolist()) for i in range(n)]
    return [Document(i, (row(start, 2), row(start, 3))) for i, start in enumerate(starts)]


def gold(documents):
    return [Document(d.doc_id, d.sequences[:1]) for d in documents]


@pytest.fixture
def loaded(tokenizer):
    return prepare(tiny_model("llama").float(), tokenizer)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Parts that write each finished batch at once."""
    monkeypatch.setattr(resume_cache, "SAVE_EVERY", 0)
    return ResumeCache(tmp_path / "parts")


class Counted:
    """A function that counts its calls, and stops like Ctrl-C at one of them."""

    def __init__(self, monkeypatch, module, name, stop_at=None):
        self.real, self.calls, self.stop_at = getattr(module, name), 0, stop_at
        monkeypatch.setattr(module, name, self)

    def __call__(self, *arguments, **options):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return self.real(*arguments, **options)


def entries(kept):
    """How often each entry was written, over all files of a folder."""
    result = {}
    for path in kept.folder.rglob("*.npz"):
        with np.load(path) as file:
            for key in file["keys"]:
                name = (path.parent.name, path.name.split(".")[0], key)
                result[name] = result.get(name, 0) + 1
    return result


ROWS = {"values": ("f", ()), "greedy": ("b", ())}
ONE = {"values": ("f", ())}
WIDE = {"values": ("f", (64,))}


class TestUnit:
    """Blocks of entries in files."""

    def test_entries_come_back_with_their_own_lengths(self, kept):
        with kept.unit("a", ["x", "y", "z"], ROWS, [1, 2, 3]) as unit:
            assert unit.done == {}
            unit.add(2, values=np.arange(3.0), greedy=np.array([True, False, True]))
            unit.add(0, values=np.array([7.0]), greedy=np.array([False]))
        again = kept.unit("a", ["w", "z", "x"], ROWS, [2, 3, 1])
        assert sorted(again.done) == [1, 2]
        assert not again.complete
        np.testing.assert_array_equal(again.done[1]["values"], [0, 1, 2])
        np.testing.assert_array_equal(again.done[1]["greedy"], [True, False, True])
        np.testing.assert_array_equal(again.done[2]["values"], [7])
        assert kept.unit("b", ["x"], ROWS).done == {}

    def test_what_was_added_before_an_error_is_kept(self, tmp_path):
        kept = ResumeCache(tmp_path)

        def fail():
            with kept.unit("a", ["x", "y"], ONE) as unit:
                unit.add(0, values=np.ones(1))
                assert not list(tmp_path.iterdir())
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert list(kept.unit("a", ["x", "y"], ONE).done) == [0]

    @pytest.mark.parametrize(
        "damage", [lambda raw: raw[:-40], lambda raw: b"", lambda raw: raw.replace(b"\x40", b"\x41")]
    )
    def test_a_damaged_file_is_computed_again_and_named(self, kept, damage, capsys):
        for number in range(2):
            with kept.unit("a", ["x", "y"], WIDE) as unit:
                unit.add(number, values=np.full((1, 64), 2.0))
        path = sorted(kept.folder.iterdir())[0]
        path.write_bytes(damage(path.read_bytes()))
        assert len(kept.unit("a", ["x", "y"], WIDE).done) == 1
        message = capsys.readouterr().err
        assert str(path) in message
        assert "computed again" in message

    def test_no_folder_keeps_nothing(self):
        with ResumeCache().unit("a", ["x"], ONE) as unit:
            unit.add(0, values=np.ones(1))
        assert unit.complete
        assert not ResumeCache().subfolder("b").unit("a", ["x"], ONE).done


def resealed(path, change, kept, name="a"):
    """Put a changed block beside, under the name that its bytes have."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    unit = kept.unit(name, [], WIDE)
    content = io.BytesIO()
    np.savez(content, **change(arrays))
    path.with_name(f"{name}.{unit._digest(content)}.npz").write_bytes(content.getvalue())
    path.unlink()


class TestDamage:
    """A block that is not what was written is named, removed and computed again; nothing of it is used."""

    VALUES = np.linspace(0.5, 1.5, 64)[None]

    @pytest.fixture
    def block(self, kept):
        with kept.unit("a", ["x", "y"], WIDE) as unit:
            unit.add(0, values=self.VALUES)
        return next(kept.folder.iterdir())

    def test_any_byte(self, kept, block, capsys):
        """Sizes, flags, names, checksums, shapes: whatever the byte says, it never passes and never stops a job."""
        raw, rng = block.read_bytes(), np.random.default_rng(0)
        places = [*range(0, 64), *range(len(raw) - 64, len(raw)), *rng.integers(0, len(raw), 300)]
        for place in map(int, places):
            changed = bytearray(raw)
            changed[place] ^= 1 << int(rng.integers(8))
            block.write_bytes(changed)
            assert kept.unit("a", ["x", "y"], WIDE).done == {}
            assert not block.exists()
        assert capsys.readouterr().err.count(f"{block}: cannot be reused") == len(places)
        block.write_bytes(raw)
        np.testing.assert_array_equal(kept.unit("a", ["x", "y"], WIDE).done[0]["values"], self.VALUES)

    @pytest.mark.parametrize(
        "change",
        [
            lambda arrays: arrays | {"values": arrays["values"][:, :63]},
            lambda arrays: arrays | {"values": arrays["values"][0]},
            lambda arrays: arrays | {"values": arrays["values"] > 1},
            lambda arrays: arrays | {"values": arrays["values"].astype(str)},
            lambda arrays: arrays | {"more": arrays["values"]},
            lambda arrays: arrays | {"sizes": np.array([2])},
            lambda arrays: arrays | {"sizes": np.array([1, 0])},
            lambda arrays: {name: values for name, values in arrays.items() if name != "values"},
            lambda arrays: {name: values for name, values in arrays.items() if name != "keys"},
            lambda arrays: {name: values for name, values in arrays.items() if name != "sizes"},
        ],
    )
    def test_another_layout_with_a_digest_that_is_right(self, kept, block, change, capsys):
        resealed(block, change, kept)
        assert kept.unit("a", ["x", "y"], WIDE).done == {}
        assert "it holds " in capsys.readouterr().err

    def test_an_equal_layout_with_a_digest_that_is_right_is_used(self, kept, block):
        """So that the test above is not of its own helper."""
        resealed(block, lambda arrays: arrays | {"values": 2 * arrays["values"]}, kept)
        np.testing.assert_array_equal(kept.unit("a", ["x", "y"], WIDE).done[0]["values"], 2 * self.VALUES)

    def test_objects_are_not_unpickled(self, kept, block, capsys):
        np.savez(block, keys=np.array([b"x"]), sizes=np.array([1]), values=np.array([[print]], dtype=object))
        assert kept.unit("a", ["x", "y"], WIDE).done == {}
        assert str(block) in capsys.readouterr().err

    def test_a_block_of_another_unit_or_stamp_under_this_name(self, tmp_path, kept, block):
        for other in (kept.subfolder("option"), ResumeCache(tmp_path / "other", "stamp")):
            for name in ("a", "b"):
                place = other.folder / block.name.replace("a.", f"{name}.", 1)
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(block.read_bytes())
                assert other.unit(name, ["x", "y"], WIDE).done == {}
        block.rename(block.with_name(block.name.replace("a.", "b.", 1)))
        assert kept.unit("b", ["x", "y"], WIDE).done == {}

    def test_folders_of_parts_may_move(self, tmp_path, kept, block):
        kept.folder.rename(tmp_path / "elsewhere")
        assert list(ResumeCache(tmp_path / "elsewhere", kept.stamp).unit("a", ["x", "y"], WIDE).done) == [0]

    @pytest.mark.parametrize("kind", ["folder", "pipe", "broken link"])
    def test_what_is_no_file_is_passed_over(self, kept, block, kind, capsys):
        other = block.with_name("a.0.npz")
        {"folder": other.mkdir, "pipe": lambda: os.mkfifo(other), "broken link": lambda: other.symlink_to("none")}[
            kind
        ]()
        assert list(kept.unit("a", ["x", "y"], WIDE).done) == [0]
        assert str(other) in capsys.readouterr().err


def killed_while_writing(folder, target):
    """A process that is killed while it writes beside a target; the file that it leaves."""
    code = (
        "import sys, time; from pathlib import Path; from lm_headroom.artifacts.store import atomic\n"
        f"with atomic(Path({str(folder / target)!r})) as partial:\n"
        "    partial.write_bytes(b'half'); print(partial, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return process, Path(process.stdout.readline().strip())


class TestPartialFiles:
    """What a killed process left is removed by the next one that writes or reads there; a living one's is not."""

    @pytest.mark.parametrize("target", ["out.parquet", "a.0123.npz"])
    def test_killed_processes_leave_nothing_for_long(self, kept, target):
        process, partial = killed_while_writing(kept.folder, target)
        try:
            self.look(kept, target)
            assert partial.exists(), "its process lives"
        finally:
            process.kill()
            process.wait()
        assert partial.exists()
        self.look(kept, target)
        assert not partial.exists()

    def look(self, kept, target):
        if target.endswith(".npz"):
            kept.unit("a", [], WIDE)
        else:
            write_json(kept.folder / target, {})

    def test_another_machines_may_live_as_long_as_it_writes(self, tmp_path):
        """Locks may not reach from machine to machine."""
        fresh, old = (tmp_path / f".out.json.{name}@elsewhere.partial" for name in ("fresh", "old"))
        unlabelled, other = tmp_path / ".out.json.x.partial", tmp_path / ".out2.json.x.partial"
        for path in (fresh, old, unlabelled, other):
            path.write_bytes(b"half")
        os.utime(old, (1, 1))
        write_json(tmp_path / "out.json", {})
        assert sorted(tmp_path.iterdir()) == sorted([fresh, other, tmp_path / "out.json"])

    def test_where_locks_are_not_served_age_decides(self, tmp_path, monkeypatch):
        def unserved(*_, **__):
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr("lm_headroom.artifacts.store.lock_descriptor", unserved)
        fresh, old = (tmp_path / f".out.json.{name}.partial" for name in ("fresh", "old"))
        for path in (fresh, old):
            path.write_bytes(b"half")
        os.utime(old, (1, 1))
        write_json(tmp_path / "out.json", {})
        assert sorted(tmp_path.iterdir()) == sorted([fresh, tmp_path / "out.json"])

    def test_pipes_and_links_are_left_alone(self, tmp_path):
        os.mkfifo(tmp_path / ".out.json.a.partial")
        (tmp_path / ".out.json.b.partial").symlink_to("none")
        write_json(tmp_path / "out.json", {})
        assert len(list(tmp_path.iterdir())) == 3


class TestStamp:
    """Another code, model, number format or library is another folder."""

    record: ClassVar = {"digest": "one"}

    def test_the_same_is_the_same(self, tmp_path):
        assert open_cache(tmp_path, "scoring.gradient", self.record, "float32") == open_cache(
            tmp_path, "scoring.gradient", dict(self.record), "float32"
        )

    @pytest.mark.parametrize(
        ("module", "record", "dtype"),
        [
            ("scoring.knockout", record, "float32"),
            ("scoring.gradient", {"digest": "two"}, "float32"),
            ("scoring.gradient", record, "bfloat16"),
        ],
    )
    def test_another_is_another(self, tmp_path, module, record, dtype):
        first = open_cache(tmp_path, "scoring.gradient", self.record, "float32")
        assert open_cache(tmp_path, module, record, dtype) != first

    @pytest.mark.parametrize("name", ["code_digest", "installed_version"])
    def test_code_and_libraries_count(self, tmp_path, monkeypatch, name):
        first = open_cache(tmp_path, "scoring.gradient", self.record, "float32")
        monkeypatch.setattr(resume_cache, name, lambda *_: "another")
        assert open_cache(tmp_path, "scoring.gradient", self.record, "float32") != first

    def test_no_folder_has_no_stamp(self):
        assert open_cache(None, "scoring.gradient", self.record, "float32") == ResumeCache()


class TestEngines:
    """Stopped in the middle and run again, each engine computes what is left, and gives what it gives in one go."""

    def test_head_gradients(self, loaded, kept, monkeypatch):
        chosen = gold(documents())
        whole = contributions(loaded, chosen, 30)
        with monkeypatch.context() as patched:
            Counted(patched, gradient, "products", stop_at=3)
            with pytest.raises(KeyboardInterrupt):
                contributions(loaded, chosen, 30, cache=kept)
        before = len(entries(kept))
        assert 0 < before < len(chosen)
        # Another budget packs other batches: those that are half done are cut.
        actual = contributions(loaded, chosen, 50, cache=kept)
        np.testing.assert_allclose(actual.absolute, whole.absolute, rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(actual.signed, whole.signed, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(actual.written, whole.written, rtol=1e-5)
        np.testing.assert_allclose(actual.ffns.absolute, whole.ffns.absolute, rtol=1e-4, atol=1e-8)
        assert set(entries(kept).values()) == {1}
        counted = Counted(monkeypatch, gradient, "products")
        again = contributions(loaded, chosen, 50, cache=kept)
        np.testing.assert_array_equal(again.absolute, actual.absolute)
        np.testing.assert_array_equal(again.signed, actual.signed)
        for name in ("written", "entropy", "sink"):
            np.testing.assert_array_equal(getattr(again, name), getattr(actual, name))
        for name in ("absolute", "signed", "zeros"):
            np.testing.assert_array_equal(getattr(again.ffns, name), getattr(actual.ffns, name))
        assert counted.calls == 0

    def test_likelihoods(self, loaded, kept, monkeypatch):
        gates = gates_without(loaded.shape, [(0, 1), (2, 3)])
        chosen = documents()
        whole = likelihoods(loaded, Batches(chosen, 40), gates, [1])
        with monkeypatch.context() as patched:
            Counted(patched, likelihood, "predict", stop_at=3)
            with pytest.raises(KeyboardInterrupt):
                likelihoods(loaded, Batches(chosen, 40), gates, [1], cache=kept)
        assert 0 < len(entries(kept)) < len(chosen)
        actual = likelihoods(loaded, Batches(chosen, 60), gates, [1], cache=kept)
        np.testing.assert_allclose(actual.values, whole.values, rtol=1e-5)
        np.testing.assert_array_equal(actual.greedy, whole.greedy)
        assert set(entries(kept).values()) == {1}
        counted = Counted(monkeypatch, likelihood, "predict")
        np.testing.assert_array_equal(
            likelihoods(loaded, Batches(chosen, 60), gates, [1], cache=kept).values, actual.values
        )
        assert counted.calls == 0
        # Other heads, or other FFNs, are another unit.
        likelihoods(loaded, Batches(chosen, 1000), gates, [2], cache=kept)
        likelihoods(loaded, Batches(chosen, 1000), None, [1], cache=kept)
        assert counted.calls == 2

    def test_the_ffn_oracle(self, loaded, kept, monkeypatch):
        chosen = documents()
        whole = knock_out_ffns(loaded, Batches(chosen, 40))
        with monkeypatch.context() as patched:
            Counted(patched, likelihood, "predict", stop_at=9)
            with pytest.raises(KeyboardInterrupt):
                knock_out_ffns(loaded, Batches(chosen, 40), cache=kept)
        assert 0 < len(entries(kept)) < len(chosen) * (1 + loaded.shape.layers)
        knockouts = knock_out_ffns(loaded, Batches(chosen, 60), cache=kept)
        for one, other in zip([whole.dense, *whole.ablated], [knockouts.dense, *knockouts.ablated], strict=True):
            np.testing.assert_allclose(other.values, one.values, rtol=1e-5)
            np.testing.assert_array_equal(other.greedy, one.greedy)
        assert set(entries(kept).values()) == {1}

    @pytest.mark.parametrize("several", [False, True])
    def test_damaged_blocks_leave_equal_numbers(self, loaded, tmp_path, several):
        """Random bytes of random blocks, one or several blocks at a time."""
        chosen, rng = documents(5), np.random.default_rng(int(several))
        kept = ResumeCache(tmp_path / "parts")
        whole = knock_out_ffns(loaded, Batches(chosen, 1000), cache=kept)
        for _ in range(20):
            blocks = sorted(kept.folder.glob("*.npz"))
            for path in rng.choice(blocks, 3 if several else 1, replace=False):
                raw = bytearray(path.read_bytes())
                raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
                path.write_bytes(raw)
            knockouts = knock_out_ffns(loaded, Batches(chosen, 1000), cache=kept)
            for one, other in zip([whole.dense, *whole.ablated], [knockouts.dense, *knockouts.ablated], strict=True):
                np.testing.assert_array_equal(other.values, one.values)
                np.testing.assert_array_equal(other.greedy, one.greedy)

    @pytest.mark.parametrize("score", [prefix_matching, copying])
    def test_sequences(self, loaded, kept, monkeypatch, score):
        first, _ = score(loaded, 2, cache=kept)
        assert first == score(loaded, 2)[0]
        counted = Counted(monkeypatch, prefix_matching_module, "run")
        monkeypatch.setattr("lm_headroom.scoring.copying.run", counted)
        assert score(loaded, 2, cache=kept)[0] == first
        assert counted.calls == 0
        assert score(loaded, 3, cache=kept)[0]["mean"] != first["mean"]
        assert counted.calls == 1

    def test_copying_of_another_kind_is_another_unit(self, loaded, kept):
        scores = [
            copying(loaded, 1, head_output=output, output_bias=bias, cache=kept)[0]
            for output, bias in (("attention", False), ("value", False), ("attention", True))
        ]
        assert scores[0] != scores[1]
        assert len(entries(kept)) == 3

    def test_more_documents_find_the_old_ones(self, loaded, kept, monkeypatch):
        likelihoods(loaded, Batches(documents(9)[:6], 1000), cache=kept)
        more = documents(9)[3:]
        progress = Progress("x", 6, "documents")
        actual = likelihoods(loaded, Batches(more, 1000), progress=progress, cache=kept)
        np.testing.assert_allclose(actual.values, likelihoods(loaded, Batches(more, 1000)).values, rtol=1e-5)
        assert len(entries(kept)) == 9
        assert set(entries(kept).values()) == {1}
        assert progress.done == 6

    def test_what_is_not_finite_is_not_kept(self, kept, tokenizer):
        model = tiny_model("llama").float()
        loaded = prepare(model, tokenizer)
        model.get_output_embeddings().weight.data[:] = float("nan")
        with pytest.raises(HeadroomError, match=r"document \d: the log-likelihood of a continuation is nan"):
            likelihoods(loaded, Batches(documents(), 1000), cache=kept)
        assert not list(kept.folder.rglob("*.npz"))


def test_entries_are_told_apart():
    assert digest((1, 2)) != digest((1, 3))
    assert len(digest("a")) == 32
