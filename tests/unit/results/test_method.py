"""What findings say of how the own rankings came about."""

import pytest

from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import provenance, read, write
from lm_headroom.report.findings.page import findings
from lm_headroom.results.method import describe_method, name_scores
from tests.support.small_study import small


def with_option(path, kind, **options):
    """The same artifact, made with other options."""
    columns, record = read(path, kind).to_pydict(), provenance(path)
    write(path, kind, columns, record | {"options": record.get("options", {}) | options})


@pytest.mark.parametrize(
    ("ablation", "sentence"),
    [
        ("zero", "A removed head or FFN gives zeros. "),
        ("mean", "A removed head or FFN gives its mean over the scoring documents. "),
        ("resample", "A removed head or FFN gives its activation on another scoring document. "),
    ],
)
def test_criterion_and_ablation_are_those_of_the_artifacts(tmp_path, ablation, sentence):
    study = small(tmp_path)
    assert describe_method(study) == ""
    shots, task = study.shots[0], study.tasks[0]
    with_option(study.curve(task, shots), PRUNED_EVAL, ablation=ablation)
    assert describe_method(study) == sentence
    with_option(study.path("head_importance", shots, task=task), HEAD_IMPORTANCE, criterion="fisher")
    both = f"The own ranking of heads goes by the criterion `fisher` (docs/criteria.md). {sentence}"
    assert describe_method(study) == both
    assert both in findings(study)
    assert name_scores(study, "heads") == "scores of heads by `fisher`"
    with_option(study.path("ffn_gradient", shots, task=task), FFN_GRADIENT, criterion="attention_entropy")
    assert name_scores(study, "ffns") == "gradient scores of FFNs", "entropy ranks heads alone"
