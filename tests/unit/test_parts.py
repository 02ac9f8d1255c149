"""Finished units are kept, found again where everything matches, and nowhere else."""

from typing import ClassVar

import numpy as np
import pytest

from headroom import importance, induction, likelihood, parts
from headroom.checkpoints import gates_without, prepare
from headroom.copying import copying
from headroom.errors import HeadroomError
from headroom.importance import contributions
from headroom.induction import prefix_matching
from headroom.likelihood import likelihoods
from headroom.oracle import knock_out_ffns
from headroom.packing import Batches, Document, Row
from headroom.parts import Parts, digest, parts_of
from headroom.progress import Progress
from tests.conftest import tiny_model


def documents(n=9, seed=3):
    """Two choices each; the gold ones alone where one row is asked for."""
    rng = np.random.default_rng(seed)

    def row(start, length):
        return Row((*start, *rng.integers(3, 500, length).tolist()), length)

    starts = [tuple(rng.integers(3, 500, 6 + i).tolist()) for i in range(n)]
    return [Document(i, (row(start, 2), row(start, 3))) for i, start in enumerate(starts)]


def gold(found):
    return [Document(d.doc_id, d.rows[:1]) for d in found]


@pytest.fixture
def loaded(tokenizer):
    return prepare(tiny_model("llama").float(), tokenizer)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Parts that write each finished batch at once."""
    monkeypatch.setattr(parts, "KEEP_EVERY", 0)
    return Parts(tmp_path / "parts")


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
    found = {}
    for path in kept.folder.rglob("*.npz"):
        with np.load(path) as file:
            for key in file["keys"]:
                name = (path.parent.name, path.name.split(".")[0], key)
                found[name] = found.get(name, 0) + 1
    return found


class TestUnit:
    """Blocks of entries in files."""

    def test_entries_come_back_with_their_own_lengths(self, kept):
        with kept.unit("a", ["x", "y", "z"], [1, 2, 3]) as unit:
            assert unit.known == {}
            unit.add(2, values=np.arange(3.0), greedy=np.array([True, False, True]))
            unit.add(0, values=np.array([7.0]), greedy=np.array([False]))
        again = kept.unit("a", ["w", "z", "x"], [2, 3, 1])
        assert sorted(again.known) == [1, 2]
        assert not again.complete
        np.testing.assert_array_equal(again.known[1]["values"], [0, 1, 2])
        np.testing.assert_array_equal(again.known[1]["greedy"], [True, False, True])
        np.testing.assert_array_equal(again.known[2]["values"], [7])
        assert kept.unit("b", ["x"]).known == {}

    def test_what_was_added_before_an_error_is_kept(self, tmp_path):
        kept = Parts(tmp_path)

        def fail():
            with kept.unit("a", ["x", "y"]) as unit:
                unit.add(0, values=np.ones(1))
                assert not list(tmp_path.iterdir())
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert list(kept.unit("a", ["x", "y"]).known) == [0]

    @pytest.mark.parametrize(
        "damage", [lambda raw: raw[:-40], lambda raw: b"", lambda raw: raw.replace(b"\x40", b"\x41")]
    )
    def test_a_damaged_file_is_computed_again_and_named(self, kept, damage, capsys):
        for number in range(2):
            with kept.unit("a", ["x", "y"]) as unit:
                unit.add(number, values=np.full((1, 64), 2.0))
        path = sorted(kept.folder.iterdir())[0]
        path.write_bytes(damage(path.read_bytes()))
        assert len(kept.unit("a", ["x", "y"]).known) == 1
        said = capsys.readouterr().err
        assert str(path) in said
        assert "computed again" in said

    def test_no_folder_keeps_nothing(self):
        with Parts().unit("a", ["x"]) as unit:
            unit.add(0, values=np.ones(1))
        assert unit.complete
        assert not Parts().below("b").unit("a", ["x"]).known


class TestStamp:
    """Another code, model, number format or library is another folder."""

    record: ClassVar = {"digest": "one"}

    def test_the_same_is_the_same(self, tmp_path):
        assert parts_of(tmp_path, "importance", self.record, "float32") == parts_of(
            tmp_path, "importance", dict(self.record), "float32"
        )

    @pytest.mark.parametrize(
        ("module", "record", "dtype"),
        [
            ("oracle", record, "float32"),
            ("importance", {"digest": "two"}, "float32"),
            ("importance", record, "bfloat16"),
        ],
    )
    def test_another_is_another(self, tmp_path, module, record, dtype):
        first = parts_of(tmp_path, "importance", self.record, "float32")
        assert parts_of(tmp_path, module, record, dtype) != first

    @pytest.mark.parametrize("name", ["code_digest", "version"])
    def test_code_and_libraries_count(self, tmp_path, monkeypatch, name):
        first = parts_of(tmp_path, "importance", self.record, "float32")
        monkeypatch.setattr(parts, name, lambda *_: "another")
        assert parts_of(tmp_path, "importance", self.record, "float32") != first

    def test_no_folder_has_no_stamp(self):
        assert parts_of(None, "importance", self.record, "float32") == Parts()


class TestEngines:
    """Stopped in the middle and run again, each engine computes what is left, and gives what it gives in one go."""

    def test_head_gradients(self, loaded, kept, monkeypatch):
        chosen = gold(documents())
        whole = contributions(loaded, chosen, 30)
        with monkeypatch.context() as patched:
            Counted(patched, importance, "products", stop_at=3)
            with pytest.raises(KeyboardInterrupt):
                contributions(loaded, chosen, 30, parts=kept)
        before = len(entries(kept))
        assert 0 < before < len(chosen)
        # Another budget packs other batches: those that are half done are cut.
        found = contributions(loaded, chosen, 50, parts=kept)
        np.testing.assert_allclose(found.absolute, whole.absolute, rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(found.signed, whole.signed, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(found.written, whole.written, rtol=1e-5)
        np.testing.assert_allclose(found.ffns.absolute, whole.ffns.absolute, rtol=1e-4, atol=1e-8)
        assert set(entries(kept).values()) == {1}
        counted = Counted(monkeypatch, importance, "products")
        again = contributions(loaded, chosen, 50, parts=kept)
        np.testing.assert_array_equal(again.absolute, found.absolute)
        np.testing.assert_array_equal(again.signed, found.signed)
        np.testing.assert_array_equal(again.written, found.written)
        for name in ("absolute", "signed", "zeros"):
            np.testing.assert_array_equal(getattr(again.ffns, name), getattr(found.ffns, name))
        assert counted.calls == 0

    def test_likelihoods(self, loaded, kept, monkeypatch):
        gates = gates_without(loaded.shape, [(0, 1), (2, 3)])
        chosen = documents()
        whole = likelihoods(loaded, Batches(chosen, 40), gates, [1])
        with monkeypatch.context() as patched:
            Counted(patched, likelihood, "predict", stop_at=3)
            with pytest.raises(KeyboardInterrupt):
                likelihoods(loaded, Batches(chosen, 40), gates, [1], parts=kept)
        assert 0 < len(entries(kept)) < len(chosen)
        found = likelihoods(loaded, Batches(chosen, 60), gates, [1], parts=kept)
        np.testing.assert_allclose(found.values, whole.values, rtol=1e-5)
        np.testing.assert_array_equal(found.greedy, whole.greedy)
        assert set(entries(kept).values()) == {1}
        counted = Counted(monkeypatch, likelihood, "predict")
        np.testing.assert_array_equal(
            likelihoods(loaded, Batches(chosen, 60), gates, [1], parts=kept).values, found.values
        )
        assert counted.calls == 0
        # Other heads, or other FFNs, are another unit.
        likelihoods(loaded, Batches(chosen, 1000), gates, [2], parts=kept)
        likelihoods(loaded, Batches(chosen, 1000), None, [1], parts=kept)
        assert counted.calls == 2

    def test_the_ffn_oracle(self, loaded, kept, monkeypatch):
        chosen = documents()
        whole = knock_out_ffns(loaded, Batches(chosen, 40))
        with monkeypatch.context() as patched:
            Counted(patched, likelihood, "predict", stop_at=9)
            with pytest.raises(KeyboardInterrupt):
                knock_out_ffns(loaded, Batches(chosen, 40), parts=kept)
        assert 0 < len(entries(kept)) < len(chosen)
        found = knock_out_ffns(loaded, Batches(chosen, 60), parts=kept)
        for one, other in zip([whole.dense, *whole.ablated], [found.dense, *found.ablated], strict=True):
            np.testing.assert_allclose(other.values, one.values, rtol=1e-5)
            np.testing.assert_array_equal(other.greedy, one.greedy)
        assert set(entries(kept).values()) == {1}

    @pytest.mark.parametrize("score", [prefix_matching, copying])
    def test_sequences(self, loaded, kept, monkeypatch, score):
        first, _ = score(loaded, 2, parts=kept)
        assert first == score(loaded, 2)[0]
        counted = Counted(monkeypatch, induction, "run")
        monkeypatch.setattr("headroom.copying.run", counted)
        assert score(loaded, 2, parts=kept)[0] == first
        assert counted.calls == 0
        assert score(loaded, 3, parts=kept)[0]["mean"] != first["mean"]
        assert counted.calls == 1

    def test_copying_of_another_kind_is_another_unit(self, loaded, kept):
        scores = [
            copying(loaded, 1, head_output=output, output_bias=bias, parts=kept)[0]
            for output, bias in (("attention", False), ("value", False), ("attention", True))
        ]
        assert scores[0] != scores[1]
        assert len(entries(kept)) == 3

    def test_more_documents_find_the_old_ones(self, loaded, kept, monkeypatch):
        likelihoods(loaded, Batches(documents(9)[:6], 1000), parts=kept)
        more = documents(9)[3:]
        progress = Progress("x", 6, "documents")
        found = likelihoods(loaded, Batches(more, 1000), progress=progress, parts=kept)
        np.testing.assert_allclose(found.values, likelihoods(loaded, Batches(more, 1000)).values, rtol=1e-5)
        assert len(entries(kept)) == 9
        assert set(entries(kept).values()) == {1}
        assert progress.done == 6

    def test_what_is_not_finite_is_not_kept(self, kept, tokenizer):
        model = tiny_model("llama").float()
        loaded = prepare(model, tokenizer)
        model.get_output_embeddings().weight.data[:] = float("nan")
        with pytest.raises(HeadroomError, match=r"document \d: the log-likelihood of a continuation is nan"):
            likelihoods(loaded, Batches(documents(), 1000), parts=kept)
        assert not list(kept.folder.rglob("*.npz"))


def test_entries_are_told_apart():
    assert digest((1, 2)) != digest((1, 3))
    assert len(digest("a")) == 32
