"""A study of a quantised checkpoint: resolved by its job, planned anew by a dry run that writes nothing."""

import json

from tests.support.quantised_models import write_fp8
from tests.support.workflow_studies import tiny_study


def written(folder):
    """Size and time of every file below a folder, hidden ones too."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_quantised_checkpoint_is_unpacked_by_runs_alone(tmp_path, tokenizer):
    study = tiny_study(tmp_path / "study", tokenizer)
    study.configure(models={"tiny": {"source": "packed"}})
    write_fp8(study.folder / "packed", tokenizer)
    results, record = study.folder / "results", study.result("tiny/model.json")
    scores = "results/tiny/head_importance/arc_easy/0shot-seed1234.parquet"
    study.run(scores)
    first = json.loads(record.read_text())
    assert first["origin"]["types"] == "fp8"
    assert study.planned(scores) == {}
    write_fp8(study.folder / "packed", tokenizer, seed=1)
    before = written(results)
    assert study.planned(scores) == {"resolve_model": 1, "score_heads": 1}
    assert written(results) == before
    study.run("results/tiny/model.json")
    assert json.loads(record.read_text())["origin"]["sha256"] != first["origin"]["sha256"]
    assert study.planned(scores) == {"score_heads": 1}
