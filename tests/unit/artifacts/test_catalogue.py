"""The catalogue of artifacts: one row each, from which paths, targets and schemas follow."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from lm_headroom.artifacts import catalogue
from lm_headroom.artifacts.catalogue import ARTIFACTS, CATALOGUE
from lm_headroom.artifacts.code_digest import code_digest, source_imports
from lm_headroom.artifacts.schemas import SCHEMAS
from lm_headroom.study.config import Study
from tests.support.paths import ROOT

PACKAGE = ROOT / "workflow" / "lm_headroom"


def study(**changes):
    defaults = {"tasks": ["a", "b"], "shots": [0, 5], "seeds": [1], "models": {"m": {"source": "there"}}}
    return Study.model_validate({**defaults, **changes})


def test_each_schema_has_a_row_and_each_row_a_schema():
    assert sorted(schema.name for schema in SCHEMAS) == sorted(ARTIFACTS) == sorted(row.name for row in CATALOGUE)
    assert len({row.template for row in CATALOGUE}) == len(CATALOGUE)


def test_each_row_names_a_step():
    assert {row.step for row in CATALOGUE} <= {path.stem for path in (PACKAGE / "steps").glob("*.py")}


def test_it_is_read_without_pyarrow_and_without_torch():
    code = "import sys; sys.modules |= dict.fromkeys(('pyarrow', 'torch', 'numpy', 'pydantic'))\n"
    code += "import lm_headroom.artifacts.catalogue"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nobody_else_writes_a_cell_of_the_matrix_into_a_path():
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "workflow" / "rules").glob("*.smk"), ROOT / "Snakefile"]
    # Examples in docstrings name files.
    wrong = [
        path.name
        for path in files
        if path != PACKAGE / "artifacts" / "catalogue.py"
        and "shot-seed" in re.sub(r'""".*?"""', "", path.read_text(), flags=re.S)
    ]
    assert not wrong


def test_a_new_row_changes_no_digest(tmp_path):
    assert "lm_headroom.artifacts.catalogue" in source_imports(PACKAGE / "artifacts" / "store.py")
    for module in ("artifacts.store", "artifacts.catalogue"):
        path = tmp_path / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text((PACKAGE / path.relative_to(tmp_path)).read_text())
    for name in ("artifacts/json_object.py", "errors.py"):
        (tmp_path / name).write_text((PACKAGE / name).read_text())
    before = code_digest("artifacts.store", root=tmp_path)
    code_digest.cache_clear()
    path.write_text(path.read_text() + "\nADDED = 1\n")
    assert code_digest("artifacts.store", root=tmp_path) == before


@pytest.mark.parametrize(
    ("pruned", "is_one"),
    [
        *[(f"heads{h}-ffns{f}", True) for h, f in ((0, 100), (90, 0), (5, 34))],
        *[(f"heads50-ffns0{more}", True) for more in ("-even", "-experts25", "-experts100-even")],
        *[(name, False) for name in ("heads101-ffns0", "heads050-ffns0", "heads50", "heads50-even")],
        *[(f"heads50-ffns0{more}", False) for more in ("-odd", "-experts0", "-even-experts25")],
    ],
)
def test_a_pruned_checkpoint_has_one_name(pruned, is_one):
    """No percent above 100, no zero before it, nothing left out and no other order."""
    assert (re.fullmatch(catalogue.PRUNED_PARTS, pruned) is not None) == is_one


class TestPaths:
    def test_of_a_study(self):
        prompts = ARTIFACTS["prompts"].paths(study(unseen=["c"]))
        assert prompts == [f"prompts/{task}/{k}shot-seed1.parquet" for task in "abc" for k in (0, 5)]
        scores = ARTIFACTS["head_importance"].paths(study(), shot=0)
        assert scores == [f"m/head_importance/{task}/0shot-seed1.parquet" for task in ("a", "b", "aggregate")]

    def test_dimensions_may_stay_fields(self):
        paths = ARTIFACTS["capacity"].paths(study(), model="{model}", seed="{seed}")
        assert paths == [f"{{model}}/capacity/{k}shot-seed{{seed}}.parquet" for k in (0, 5)]

    def test_are_chosen_by_their_dimensions(self):
        settings = study(pruning={"controls": ["random_1", "target"]})
        curves = ARTIFACTS["pruned_eval"]
        own = curves.paths(settings, component="heads", ranking=["own", "target"], task="a", shot=0)
        assert own == [f"m/pruned_eval/heads/a/0shot-seed1/{name}.parquet" for name in ("own", "target")]
        assert curves.paths(settings, component="ffns", ranking="target") == []

    def test_what_a_study_lacks_has_none(self):
        without = study(shots=[0], induction={"sequences": 0}, joint={"heads": [], "ffns": []})
        lacking = {row.name for row in CATALOGUE if not row.paths(without)}
        assert lacking == {
            *(
                "expert_importance",
                "expert_ranking",
                "ffn_selection",
                "head_oracle",
                "iterative_ranking",
                "joint_eval",
                "cross_shot",
                "custom_ranking",
                "prefix_matching",
                "copying",
            ),
            *("capacity", "induction_ablation", "learned_ranking", "seed_scores"),
            *(row.name for row in CATALOGUE if row.target == "comparison"),
        }

    def test_all_targets_lie_where_a_schema_says(self):
        paths = [path for listed in catalogue.targets(study()).values() for path in listed]
        assert len(paths) == len(set(paths))
        assert not any("{" in path for path in paths)

    @pytest.mark.parametrize("folder", ["results/m", "elsewhere"])
    def test_of_a_models_folder_of_any_name(self, folder, tmp_path):
        results = tmp_path / folder
        place = catalogue.file_of(results, "ranking", task="a", shot=0, seed=1)
        assert place == results / "ranking" / "heads" / "a" / "0shot-seed1.parquet"
        assert (
            catalogue.file_of(results, "prompts", task="a", shot=0, seed=1).parent == results.parent / "prompts" / "a"
        )
