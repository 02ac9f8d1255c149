"""Ablation of induction heads and the selection bias of FFN rankings, turned on in a study that has run before."""

from __future__ import annotations

import csv
import re
from itertools import chain
from typing import Any

import pytest

from lm_headroom.analysis.head_selection import SELECTIONS, control, strongest
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.ffn_selection import FFN_SELECTION
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.induction_ablation import INDUCTION_ABLATION
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import made_by, read
from lm_headroom.engine.resume_cache import digest
from lm_headroom.study.reading import parse_study
from tests.support.read_back import read_back
from tests.support.workflow_studies import Study, drawn, edit, work

ABLATE = {"sequences": 2, "ablate": {"percents": [10, 25], "random": 2, "tasks": ["winogrande", "lambada_openai"]}}
CELLS = ["0shot-seed1234", "1shot-seed1234"]


def test_only_what_is_new_runs(study: Study) -> None:
    study.configure(induction=ABLATE)
    plan = study.planned()
    assert work(plan) == {"ablate_induction": 4}
    assert drawn(plan) == {"draw_induction_ablation", "write_induction_ablation", "write_findings"}
    assert work(study.planned("induction")) == {"ablate_induction": 4}
    assert drawn(study.planned("induction_ablation"), all_outcomes=False) == {"draw_induction_ablation"}
    study.configure(induction={**ABLATE, "ablate": {"percents": [10]}})
    assert work(study.planned()) == {"ablate_induction": 4}
    study.configure(induction={"sequences": 2}, ffn={"selection_bias": True})
    plan = study.planned()
    assert work(plan) == {"select_ffns": 4}
    assert drawn(plan) == {"write_selection_bias", "write_findings"}


@pytest.fixture(scope="module")
def study_with_controls(finished: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The finished study with both turned on, and run to the end."""
    study = finished.copy(tmp_path_factory.mktemp("controls") / "copy")
    study.configure(induction=ABLATE, ffn={"selection_bias": True})
    study.log = study.run()  # type: ignore[attr-defined]
    return study


def test_nothing_is_left_and_all_is_sound(study_with_controls: Study) -> None:
    assert study_with_controls.planned() == {}
    config = study_with_controls.config
    assert study_with_controls.unsound() == {}
    other = {
        **config,
        "induction": {**ABLATE, "ablate": {"percents": [10, 25]}},
        "ffn": {"selection": "evaluation"},
    }
    why = "\n".join(chain(*study_with_controls.unsound(parse_study(other)).values()))
    assert "made with random 2; the study has 3" in why
    assert "made with ablated ['winogrande', 'lambada_openai']; the study has ['arc_easy', 'winogrande']" in why
    assert "made with selection scoring; the study has evaluation" in why
    assert "made with selection_bias True; the study has False" in why


def test_each_row_is_the_engines(study_with_controls: Study) -> None:
    """Heads by hand from the induction scores; outcomes evaluated here without the command line."""
    from lm_headroom.engine.likelihood import tokenise
    from lm_headroom.engine.loading import load
    from lm_headroom.engine.packing import Batches
    from lm_headroom.scoring.pruned_evaluation import Evaluation, group_choices
    from lm_headroom.tasks.prompt_set import pairs, read_prompts

    scores = [
        grid(read(study_with_controls.result(f"tiny/induction/{name}.parquet"), kind), "mean")
        for name, kind in (("prefix_matching", PREFIX_MATCHING), ("copying", COPYING))
    ]
    loaded = load(study_with_controls.result("tiny/model.json"), device="cpu")
    for cell in CELLS:
        table = read_prompts(study_with_controls.result(f"prompts/winogrande/{cell}.parquet")).rows("evaluation")
        documents = tokenise(pairs(table), loaded, add_bos=False)
        evaluation = Evaluation(loaded, documents, group_choices(table), Batches(documents, 1024))
        path = study_with_controls.result(f"tiny/induction_ablation/winogrande/{cell}.parquet")
        table_rows = read(path, INDUCTION_ABLATION).to_pylist()
        expected = [("none", 0, None, [])]
        for name in SELECTIONS:
            for percent, n in ((10, 1), (25, 3)):
                chosen = strongest(*scores, name)[:n]
                expected.append((name, percent, None, chosen))
                expected += [(name, percent, i, control(chosen, name, 4, i)) for i in (1, 2)]
        assert len(table_rows) == len(expected) == 19
        for row, (name, percent, number, heads) in zip(table_rows, expected, strict=True):
            assert (row["selection"], row["percent"], row["control"]) == (name, percent, number)
            assert list(zip(row["layer"], row["head"], strict=True)) == heads
            assert row["n_heads"] == len(heads)
            assert row["correct"] == evaluation.outcomes(heads)["correct"]
            assert (row["parameters_removed"] == 0) == (not heads)
        dense = read(
            study_with_controls.result(f"tiny/pruned_eval/heads/winogrande/{cell}/own.parquet"), PRUNED_EVAL
        ).to_pylist()[0]
        assert table_rows[0]["correct"] == dense["correct"]


def test_the_whole_models_evaluation_is_not_made_again(study_with_controls: Study) -> None:
    """One block of it, kept by the first job of the task that needed it."""
    for cell in CELLS:
        parts = study_with_controls.result(f"tiny/.cache/lambada_openai/{cell}")
        assert len(list(parts.glob(f"*/likelihoods-{digest(None, [])}.*.npz"))) == 1
        log = (study_with_controls.folder / f"logs/tiny/ablate_induction/lambada_openai/{cell}.log").read_text()
        assert int(re.search(r"(\d+) reused", log)[1]) >= 8  # type: ignore[index]


def test_ffns_are_ranked_by_the_other_documents_and_judged_by_the_same(study_with_controls: Study) -> None:
    for cell in CELLS:
        own = study_with_controls.result(f"tiny/ffn_importance/arc_easy/{cell}.parquet")
        other = study_with_controls.result(f"tiny/ffn_selection/arc_easy/{cell}.parquet")
        scoring, judging = read(own, FFN_IMPORTANCE), read(other, FFN_SELECTION)
        assert [made_by(table)["options"]["selection"] for table in (scoring, judging)] == ["scoring", "evaluation"]
        # 6 documents for scoring, 8 for evaluation.
        assert [len(table["doc_id"][0]) for table in (scoring, judging)] == [6, 8]
        folder = study_with_controls.result(f"tiny/pruned_eval/ffns/arc_easy/{cell}")
        curves = {
            name: read(folder / f"{name}.parquet", PRUNED_EVAL).to_pylist() for name in ("own", "other_documents")
        }
        for mine, others in zip(curves["own"], curves["other_documents"], strict=True):
            assert (mine["percent"], mine["doc_id"]) == (others["percent"], others["doc_id"])
        assert curves["own"][0]["correct"] == curves["other_documents"][0]["correct"]
        # One FFN of three goes at 50%: the least important one by either documents, judged on the same.
        for name, table in (("own", scoring), ("other_documents", judging)):
            least = min(table.to_pylist(), key=lambda row: (row["score"], row["layer"]))["layer"]
            assert curves[name][2]["correct"] == judging.to_pylist()[least]["correct_ablated"]


def test_every_outcome_follows_from_the_files(study_with_controls: Study) -> None:
    counts = read_back(study_with_controls.result(""))
    assert (counts["induction_ablation"], counts["ffn_selection"]) == (4, 4)


def rows_of(study: Study, name: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(study.result(f"tiny/tables/{name}-seed1234.csv").open()))


def test_tables_and_findings_say_it(study_with_controls: Study) -> None:
    table_rows = rows_of(study_with_controls, "induction_ablation")
    assert {row["task"] for row in table_rows} == {"average", "winogrande", "lambada_openai"}
    assert {(row["quantity"], row["shots"]) for row in table_rows} == {
        ("accuracy", "0"), ("accuracy", "1"), ("few-shot gain", "1"),
    }  # fmt: skip
    levels = [row["percent"] for row in rows_of(study_with_controls, "selection_bias") if row["task"] == "average"]
    # 5% of three FFNs is none.
    assert levels == ["50", "mean"] * 2
    text = study_with_controls.result("tiny/findings/seed1234.md").read_text()
    assert text.count("the top 25% of heads by prefix matching") == 3
    assert text.count("of 3 heads from the same layers") == 9
    assert text.count("The selection bias is ") == text.count(", over 2 tasks and 1 level.") == 2
    assert study_with_controls.result("tiny/figures/induction_ablation-seed1234.png").stat().st_size > 5000


def test_other_code_evaluates_its_own(study_with_controls: Study, tmp_path: Any) -> None:
    study = study_with_controls.copy(tmp_path / "copy")
    edit(study, "analysis/head_selection.py")
    assert work(study.planned()) == {"ablate_induction": 4}
    study = study_with_controls.copy(tmp_path / "other")
    edit(study, "report/tables/selection_bias.py")
    pages = ("write_selection_bias", "write_selection_bias_gold_probability", "write_findings", "write_index")
    assert study.planned() == dict.fromkeys(pages, 1)
    study.configure(pruning={"levels": [0, 50], "controls": ["reversed", "random_1"]})
    assert work(study.planned())["select_ffns"] == 4
    study.result("tiny/induction/copying.parquet").unlink()
    assert work(study.planned("induction")) == {"score_induction": 1, "ablate_induction": 4, "retain_capacity": 2}
