"""One checkpoint under two names, once by its chat template: other prompts, other results, and what reruns."""

import pytest

from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.model_record import read_record
from lm_headroom.artifacts.store import provenance, read
from tests.support.workflow_studies import tiny_study, work

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"
# Whatever a shell, Snakemake or a formatted text could take for its own.
INSTRUCTION = "Answer \"briefly\",\n'please': {model} {{x}} $HOME `ls` \\ %s"
CHAT = {"source": "tiny-opt", "chat_template": True, "system_prompt": INSTRUCTION}
SCORES = "{}/head_importance/arc_easy/1shot-seed1234.parquet"


@pytest.fixture(scope="module")
def example(tmp_path_factory, tokenizer):
    models = {"plain": {"source": "tiny-opt"}, "chat": CHAT}
    study = tiny_study(tmp_path_factory.mktemp("chat") / "study", tokenizer, models=models, shots=[1], add_bos="auto")
    (study.folder / "tiny-opt" / "chat_template.jinja").write_text(TEMPLATE)
    study.run("importance")
    return study


def test_the_record_and_the_scores_are_of_the_template(example):
    plain, chat = (read_record(example.result(f"{name}/model.json")) for name in ("plain", "chat"))
    assert plain["digest"] == chat["digest"]
    assert chat["chat"] == {"system_prompt": INSTRUCTION, "fewshot_as_multiturn": True}
    assert "chat" not in plain
    scores = [read(example.result(SCORES.format(name)), HEAD_IMPORTANCE).column("score") for name in ("plain", "chat")]
    assert scores[0] != scores[1]
    for name in ("plain", "chat"):
        assert provenance(example.result(SCORES.format(name)))["start_tokens"] == ["</s>"]
    assert example.unsound() == {}
    assert example.planned("importance") == {}


def test_another_system_prompt_reruns_the_one_model(example, tmp_path):
    study = example.copy(tmp_path / "study")
    study.configure(models={"plain": {"source": "tiny-opt"}, "chat": {**CHAT, "system_prompt": "Answer."}})
    plan = work(study.planned("importance"))
    assert plan["score_heads"] == 1
    assert "render_prompts" not in plan
    study.run("importance")
    assert read_record(study.result("chat/model.json"))["chat"]["system_prompt"] == "Answer."
    assert study.unsound() == {}


def test_a_model_without_a_template_is_refused_before_any_job_runs_it(example, tmp_path):
    study = example.copy(tmp_path / "study")
    (study.folder / "tiny-opt" / "chat_template.jinja").unlink()
    study.configure(models={"other": CHAT})
    done = study.snakemake("--cores", "1", "importance")
    assert done.returncode
    assert "model 'other': tiny-opt" in done.stdout.replace(str(study.folder) + "/", "")
    assert "its tokenizer has no chat template; leave chat_template out" in done.stdout
    assert not study.result("other").joinpath("head_importance").exists()
