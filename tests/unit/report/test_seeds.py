"""What few-shot seeds change: components by hand and by loops, the artifact and the table of a study of two seeds."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest

from lm_headroom.analysis.correlation import TaskScores, corrected_srcc, noise_ceiling, srcc
from lm_headroom.analysis.variance import agreement, average_components, components, head_components
from lm_headroom.artifacts.seed_scores import SEED_SCORES
from lm_headroom.artifacts.store import ArtifactError, provenance, read
from lm_headroom.audit import verify
from lm_headroom.cli import main
from lm_headroom.report.tables.seeds import rows, whole, write
from tests.support.small_study import Values, scores, small, write_study

SEEDS = (7, 8)
# Right answers of 10 on copa with the whole model: 9 of seed 7, 6 of seed 8.
OTHER = Values(right=lambda k, *key: [6, 5, 4, 3] if "copa" in key else [8, 8, 7, 5], offset=500)


@pytest.fixture
def study(tmp_path):
    """A study of two seeds; the second has other head scores, and answers fewer questions on copa."""
    first = small(tmp_path)
    write_study(replace(first, seed=8, transfer=()), OTHER)
    return first


def loop_components(outcomes):
    """The same sums one by one."""
    seeds, n = len(outcomes), len(outcomes[0])
    by_seed = [sum(row) / n for row in outcomes]
    by_document = [sum(row[d] for row in outcomes) / seeds for d in range(n)]
    mean = sum(by_seed) / seeds
    rest = sum((outcomes[s][d] - by_seed[s] - by_document[d] + mean) ** 2 for s in range(seeds) for d in range(n))
    total = sum((value - mean) ** 2 for value in by_seed) / (seeds - 1)
    sampling = sum(sum((x - by_seed[s]) ** 2 for x in outcomes[s]) / (n - 1) / n for s in range(seeds)) / seeds
    return mean, total, rest / ((seeds - 1) * (n - 1)) / n, sampling


def test_components_are_those_of_the_loops():
    outcomes = (np.random.default_rng(0).random((2, 3, 4, 9)) < 0.6).astype(float)
    parts = components(outcomes)
    assert parts.mean.shape == (2, 3)
    for place in np.ndindex(2, 3):
        expected = loop_components(outcomes[place].tolist())
        values = [getattr(parts, name)[place] for name in ("mean", "total", "crossed", "sampling")]
        assert values == pytest.approx(expected)
    np.testing.assert_allclose(parts.unclipped, parts.total - parts.crossed)
    assert (parts.unclipped < 0).any()
    assert parts.seed.min() == 0


def test_components_by_hand():
    # Seeds move all documents alike: nothing is left for single ones.
    parts = components(np.array([[0.0, 1, 2], [1.0, 2, 3]]))
    assert (parts.mean, parts.total, parts.crossed, parts.seed) == (1.5, 0.5, 0, 0.5)
    # Two seeds that exchange two questions: equal means, all of it between single questions.
    parts = components(np.array([[1.0, 0, 1, 0], [0.0, 1, 1, 0]]))
    assert (parts.total, parts.seed) == (0, 0)
    assert parts.crossed == pytest.approx((4 * 0.25) / 3 / 4)
    # The same answers: no variance over seeds.
    parts = components(np.array([[1.0, 0, 1, 0]] * 3))
    assert (parts.total, parts.crossed) == (0, 0)
    assert parts.sampling == pytest.approx(0.25 * 4 / 3 / 4)


def test_the_averages_components():
    rng = np.random.default_rng(1)
    tasks = [(rng.random((3, n)) < 0.5).astype(float) for n in (10, 20)]
    parts, each = average_components(tasks), [components(outcomes) for outcomes in tasks]
    by_seed = [(a.mean() + b.mean()) / 2 for a, b in zip(*tasks, strict=True)]
    assert parts.mean == pytest.approx(np.mean(by_seed))
    assert parts.total == pytest.approx(np.var(by_seed, ddof=1))
    assert parts.crossed == pytest.approx((each[0].crossed + each[1].crossed) / 4)
    assert parts.sampling == pytest.approx((each[0].sampling + each[1].sampling) / 4)


def test_heads_have_halves_for_documents():
    rng = np.random.default_rng(2)
    seeds = [TaskScores(*rng.random((3, 4, 5))) for _ in range(3)]
    parts = head_components(seeds)
    np.testing.assert_allclose(parts.mean, np.mean([s.score for s in seeds], axis=0))
    np.testing.assert_allclose(parts.total, np.var([s.score for s in seeds], axis=0, ddof=1))
    _, _, crossed, _ = loop_components([[s.even[1, 2], s.odd[1, 2]] for s in seeds])
    assert parts.crossed[1, 2] == pytest.approx(crossed)


def test_agreement_is_a_mean_over_pairs():
    rng = np.random.default_rng(3)
    base = rng.random((9, 8))
    a, b = (TaskScores(*(base + 0.2 * rng.random((3, 9, 8)))) for _ in "ab")
    noise = TaskScores(*rng.random((3, 9, 8)))
    agreed = agreement([a, b], same_documents=True)
    assert agreed.srcc == srcc(a.score, b.score)[0]
    assert (agreed.ceiling, agreed.corrected) == (noise_ceiling(a, b), corrected_srcc(a, b, same_documents=True))
    assert agreement([a, b], same_documents=False).corrected == corrected_srcc(a, b)
    agreed = agreement([a, b, noise], same_documents=True)
    assert agreed.srcc == pytest.approx(
        np.mean([srcc(x.score, y.score)[0] for x, y in ((a, b), (a, noise), (b, noise))])
    )
    assert (agreed.n_corrected, agreed.n_pairs) == (1, 3)
    opposed = TaskScores(base, base, -base)
    agreed = agreement([opposed, opposed], same_documents=True)
    assert (agreed.ceiling, agreed.corrected, agreed.n_corrected) == (None, None, 0)


def command(study, *more, seeds=SEEDS):
    return [
        *("--results", str(study.results), "--tasks", *study.tasks, "--shots", "0", "5"),
        *("--seeds", *map(str, seeds), *more),
    ]


def test_the_artifact_is_of_all_seeds(study):
    out = study.results / "seeds" / "head_importance.parquet"
    assert main(["average-seeds", *command(study, "--out", str(out))]) == 0
    table = read(out, SEED_SCORES, model=study.digest).to_pylist()
    assert len(table) == 4 * 2 * 20
    cell = next(r for r in table if (r["task"], r["shots"], r["layer"], r["head"]) == ("copa", 5, 1, 2))
    values = [scores(101)[1, 2], scores(601)[1, 2]]
    assert cell["score"] == pytest.approx(np.mean(values))
    assert cell["variance"] == pytest.approx(np.var(values, ddof=1))
    # The fixture's halves are the scores: all of it is the seed's.
    assert cell["seed_variance"] == pytest.approx(cell["variance"])
    record = provenance(out)
    assert record["options"] == {"tasks": list(study.tasks), "shots": [0, 5], "seeds": [7, 8]}
    assert "seed" not in record
    assert len(record["inputs"]) == 4 * 2 * 2
    states = {file.path: file for file in verify.verify(study.results.parent)}
    assert "unrecognised" not in states["model/seeds/head_importance.parquet"].problems


def test_the_table(study, tmp_path):
    by_cell = {(row.shots, row.task): row for row in rows(study, SEEDS, same_documents=True)}
    assert len(by_cell) == 2 * 4
    row = by_cell[0, "copa"]
    assert (row.seeds, row.questions, row.accuracy) == (2, 10, pytest.approx(75))
    _, total, crossed, sampling = loop_components([[1.0] * 9 + [0], [1.0] * 6 + [0] * 4])
    assert row.variance == pytest.approx(1e4 * total)
    assert row.seed_variance == pytest.approx(1e4 * (total - crossed))
    assert row.sampling_variance == pytest.approx(1e4 * sampling)
    assert row.srcc == pytest.approx(srcc(scores(1), scores(501))[0])
    assert by_cell[0, "piqa"].variance == 0
    average = by_cell[0, "aggregate"]
    # Three tasks of 10 questions, of which one loses 0.3.
    assert (average.questions, average.accuracy) == (30, pytest.approx(100 * (2.5 / 3 + 2.2 / 3) / 2))
    assert average.variance == pytest.approx(1e4 * 0.1**2 / 2)
    out = study.results / "tables" / "seeds"
    assert main(["table", "seeds", *command(study, "--out", str(out))]) == 0
    lines = list(csv.reader((study.results / "tables" / "seeds.csv").open()))
    assert lines[0][:4] == ["shots", "task", "seeds", "questions"]
    assert len(lines) == 9
    assert lines[1][-1] == "1 of 1"
    assert "0-shot prompts hold no examples" in out.with_suffix(".md").read_text()
    few = tmp_path / "few"
    write(replace(study, shots=(5,)), SEEDS, True, few)
    assert "0-shot" not in few.with_suffix(".md").read_text()


def test_what_cannot_be_compared_is_refused(study, tmp_path, capsys):
    assert main(["table", "seeds", *command(study, "--out", str(tmp_path / "s"), seeds=[7])]) == 1
    assert "a table of seeds needs at least two of them, got [7]" in capsys.readouterr().err
    assert main(["average-seeds", *command(study, "--out", str(tmp_path / "s"), seeds=[7])]) == 1
    assert "a variance over seeds needs at least two seeds, got [7]" in capsys.readouterr().err
    assert main(["table", "seeds", *command(study, "--out", str(tmp_path / "s"), seeds=[7, 9])]) == 1
    assert "0shot-seed9" in capsys.readouterr().err
    path = replace(study, seed=8).curve("copa", 0)
    shutil.copy(replace(study, seed=8).curve("piqa", 0), path)
    with pytest.raises(ArtifactError, match="made from task piqa, expected copa"):
        whole(study, SEEDS, 0, "copa")
