"""lm-eval's `--apply_chat_template` as witness: its prompts byte for byte, and HFLM's log-likelihoods, of SmolLM2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_headroom.artifacts.prompts import EVALUATION
from lm_headroom.engine.likelihood import likelihoods, tokenise
from lm_headroom.engine.packing import Batches
from lm_headroom.models.chat import Chat, ChatSettings
from lm_headroom.models.location import checkpoint_folder
from lm_headroom.steps.render_prompts import render_prompts
from lm_headroom.tasks.prompt_set import pairs, read_prompts
from tests.support.harness import upstream
from tests.support.simulations import members

pytestmark = pytest.mark.slow
INSTRUCTION = "You answer with one of the choices.\nBe brief."
CHATS = {
    "turns": ChatSettings(),
    "turns, instructed": ChatSettings(INSTRUCTION),
    "one turn": ChatSettings(None, False),
    "one turn, instructed": ChatSettings(INSTRUCTION, False),
}
TASKS = {"arc_easy": (0, 3), "winogrande": (0, 2), "wic": (0, 2), "hellaswag": (0, 1), "lambada_openai": (0,)}
"""Shots by task. Choices of Winogrande are contexts; LAMBADA has one continuation."""
OWN = {
    # The prefix ends without white space, so that the delimiter stays; the description becomes the system turn.
    "prefixed": "gen_prefix: 'The answer is:'\ndescription: 'These are sums.'\n",
    "open": "gen_prefix: 'So '\ndescription: \"Sums follow.\\n\\n\"\n",
    "short": "target_delimiter: ''\nfewshot_delimiter: ' / '\ndescription: Sums\n",
}
"""Tasks of one's own, which reach what those of lm-eval do not."""
N = 6
LIMIT = {"lambada_openai": 400}
"""Documents that lm-eval renders; a third of LAMBADA's, some 330, score."""
NEAR = 2e-3
"""Nats."""


@pytest.fixture(scope="module")
def hflm(smollm2_record: Path) -> Any:
    """HFLM over a copy of the model, with the defaults that decide on start tokens."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = checkpoint_folder(smollm2_record)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(path), batch_size=8)


def requests(hflm: Any, task: Any, shots: int, chat: ChatSettings) -> list[Any]:
    """What lm-eval asks a model under its chat template."""
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(1234)
    task.build_all_requests(
        limit=LIMIT.get(task.config.task, 8 * N), apply_chat_template=True, tokenizer_name="SmolLM2",
        chat_template=hflm.apply_chat_template,
        fewshot_as_multiturn=chat.fewshot_as_multiturn, system_instruction=chat.system_prompt,
    )  # fmt: skip
    return list(task.instances)


def compare(hflm: Any, task: Any, shots: int, rendered: Path) -> None:
    """Compare all that a model can be asked, under each way of applying its template."""
    prompts = read_prompts(rendered)
    for name, settings in CHATS.items():
        ours = pairs(prompts.rows(EVALUATION, Chat(hflm.tokenizer, settings)))
        wanted = {doc_id for doc_id, _, _ in ours}
        theirs = [(i.doc_id, *i.args) for i in requests(hflm, task, shots, settings) if i.doc_id in wanted]
        assert ours == theirs, name


@pytest.mark.parametrize(("name", "shots"), [(task, k) for task, numbers in TASKS.items() for k in numbers])
def test_prompts_of_lm_evals_tasks(hflm, records, tmp_path, name, shots):
    out = tmp_path / "prompts.parquet"
    limits = {"limit_importance": 2, "limit_evaluation": N}
    render_prompts(task=name, shots=shots, data=str(records), **limits, prompts="harness", out=out)
    compare(hflm, upstream(name, records, tmp_path).load([name])["tasks"][name], shots, out)


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("name", OWN)
def test_prompts_of_tasks_with_a_prefix_or_other_delimiters(hflm, tmp_path, name, shots):
    from lm_eval.tasks import TaskManager

    for split in ("train", "test"):
        rows = [{"q": f"What is {n} + {n}?", "c": [str(2 * n), str(n)], "a": 0} for n in range(len(split), 30)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {files}}}\noutput_type: multiple_choice\n"
        "training_split: train\ntest_split: test\ndoc_to_text: '{{q}}'\ndoc_to_choice: c\ndoc_to_target: a\n"
        f"metric_list: [{{metric: acc}}]\n{OWN[name]}"
    )
    out = tmp_path / "prompts.parquet"
    render_prompts(task=name, shots=shots, limit_evaluation=N, task_folders=[tmp_path / "tasks"], out=out)
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    compare(hflm, manager.load([name])["tasks"][name], shots, out)


@pytest.mark.parametrize(
    ("name", "shots"), members([("arc_easy", 2), ("winogrande", 0), ("lambada_openai", 0)], [("arc_easy", 0)])
)
def test_log_likelihoods_are_hflms(smollm2, hflm, records, tmp_path, name, shots):
    out = tmp_path / "prompts.parquet"
    limits = {"limit_importance": 2, "limit_evaluation": N // 3}
    render_prompts(task=name, shots=shots, data=str(records), **limits, prompts="harness", out=out)
    settings = CHATS["turns, instructed"]
    rows = pairs(read_prompts(out).rows(EVALUATION, Chat(smollm2.tokenizer, settings)))
    documents = tokenise(rows, smollm2, "auto")
    actual = likelihoods(smollm2, Batches(documents, 1024)).values

    task = upstream(name, records, tmp_path).load([name])["tasks"][name]
    wanted = {doc_id for doc_id, _, _ in rows}
    asked = [i for i in requests(hflm, task, shots, settings) if i.doc_id in wanted]
    expected = np.array([answer for answer, _ in hflm.loglikelihood(asked, disable_tqdm=True)])
    np.testing.assert_allclose(actual, expected, atol=NEAR, rtol=0)
    plain = likelihoods(smollm2, Batches(tokenise(pairs(read_prompts(out).rows(EVALUATION)), smollm2, False), 1024))
    assert np.abs(plain.values - actual).max() > 1, "the template matters"
