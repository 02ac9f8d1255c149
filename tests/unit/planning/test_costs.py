"""Costs of passes against torch's own counter of operations, and the plan of a study."""

from itertools import product

import numpy as np
import pytest
import torch

from lm_headroom.engine.ablation import MeanAblation
from lm_headroom.engine.likelihood import log_likelihoods
from lm_headroom.engine.loading import prepare
from lm_headroom.engine.packing import Batches, Document
from lm_headroom.errors import HeadroomError
from lm_headroom.models.sizes import model_from_config
from lm_headroom.planning import plan, workload
from lm_headroom.planning.costs import Load
from lm_headroom.planning.plan import costs_of, load_of
from lm_headroom.scoring.gradient import products
from lm_headroom.scoring.knockout import knock_out_ffns
from lm_headroom.scoring.prefix_matching import sequence_length
from tests.support.documents import random_documents
from tests.support.tiny_models import count_operations, tiny_config, tiny_model
from tests.support.typed_studies import study


@pytest.fixture(params=["llama", "opt"])
def loaded(request, tokenizer):
    return prepare(tiny_model(request.param).float(), tokenizer)


def linear(costs, load):
    """Without attention, which is not counted."""
    return Load(load.columns, 0, load.logits)


def test_costs_need_no_weights(family):
    model = tiny_model(family)
    empty = model_from_config(tiny_config(family, 523), torch.float64)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    assert costs_of(empty) == costs_of(model)
    assert costs_of(model).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_pass_counts_as_torch_counts_it(loaded):
    batches = Batches(random_documents(np.random.default_rng(0)), 200)
    costs, load = costs_of(loaded.model), load_of(batches)
    actual = count_operations(lambda: log_likelihoods(loaded, batches))
    assert costs.forward(linear(costs, load)) == pytest.approx(actual, rel=1e-6)


def test_a_pass_for_means_counts_as_torch_counts_it(loaded):
    documents = [Document(d.doc_id, d.sequences[:1]) for d in random_documents(np.random.default_rng(3))]
    load = load_of(Batches(documents, 200, share=False))
    actual = count_operations(lambda: MeanAblation(loaded, documents, 200).replacements)
    costs = costs_of(loaded.model)
    # Queries, keys and values of each tree's whole block of scores are products that torch counts.
    scores = 4 * sum(len(d.sequences[0].inputs) ** 2 for d in documents) * costs.heads * sum(costs.widths)
    assert actual - costs.activations(linear(costs, load)) in (pytest.approx(0, abs=1), pytest.approx(scores, rel=1e-6))


def test_the_oracle_counts_as_torch_counts_it(loaded):
    batches = Batches(random_documents(np.random.default_rng(1)), 200)
    costs, load = costs_of(loaded.model), load_of(batches)
    actual = count_operations(lambda: knock_out_ffns(loaded, batches))
    # The last layer's FFN is left out in one restart alone, and computed at few columns; of three layers that shows.
    assert costs.oracle(linear(costs, load)) == pytest.approx(actual, rel=0.1)


def test_a_backward_pass_counts_as_torch_counts_it(loaded):
    documents = [Document(d.doc_id, d.sequences[:1]) for d in random_documents(np.random.default_rng(2))]
    batches = Batches(documents, 10_000, share=False)
    (batch,) = batches
    costs, load = costs_of(loaded.model), linear(None, load_of(batches))
    targets = np.array([float(d.sequences[0].n_target) for d in documents])
    actual = count_operations(lambda: products(loaded, batch, targets))
    # The gradient ends at the first layer's heads: its query, key and value maps are not gone through.
    first = 2 * load.columns * costs.attention
    # How heads attend is computed by products that torch counts: each tree's whole block of scores.
    scores = 2 * sum(len(d.sequences[0].inputs) ** 2 for d in documents) * costs.heads * sum(costs.widths)
    assert actual == pytest.approx(costs.forward(load) + costs.backward(load) - 0.75 * first + scores, rel=0.05)


def test_attention_is_counted_in_pairs():
    """A trunk of 5 and two branches of 1 and 2 columns that see all 8: 15 + 3 x 8."""
    from lm_headroom.engine.packing import TokenSequence

    document = Document(
        0, (TokenSequence((1, 2, 3, 4, 5, 9), 1), TokenSequence((1, 2, 7, 9), 1), TokenSequence((1, 2, 8, 6, 9), 1))
    )
    load = load_of(Batches([document], 100))
    assert (load.columns, load.pairs, load.logits) == (8, 15 + 3 * 8, 3)


HERE = workload.Hardware("test", 1, 100 * workload.GIB, 1e12, 5e11, 1e9)


def prompts():
    load = Load(1000.0, 50_000.0, 20.0)
    return [workload.Prompts(task, 0, load, load, load) for task in ("a", "b", "c")]


class TestPlan:
    def test_jobs_are_the_workflows(self):
        costs = costs_of(tiny_model("llama"))
        settings = study(unseen=["c"], transfer={"tasks": ["b"], "levels": [10, 50]})
        result = {job.rule: job.count for job in workload.jobs(settings, prompts(), costs, HERE)}
        assert result == {
            "score_heads": 3, "score_ffns": 2, "evaluate_own": 3, "evaluate_joint": 2, "evaluate_aggregate": 1,
            "evaluate_transfer": 1, "score_induction": 1,
        }  # fmt: skip
        result = {
            job.rule: job.count for job in workload.jobs(study(joint={"heads": [], "ffns": []}), prompts(), costs, HERE)
        }
        assert "evaluate_joint" not in result

    def test_time_is_start_up_and_operations_over_the_rate(self):
        costs = costs_of(tiny_model("llama"))
        settings = study(joint={"heads": [], "ffns": []}, pruning={"levels": [0, 50], "controls": []})
        by_rule = {job.rule: job for job in workload.jobs(settings, prompts(), costs, HERE)}
        load = prompts()[0].evaluation
        fixed = workload.START_UP + costs.weight_bytes / HERE.load
        assert by_rule["evaluate_own"].longest == pytest.approx(fixed + 2 * costs.forward(load) / HERE.forward)
        # The configured variant is the own ranking, and costs nothing; each other control costs a curve.
        more = study(joint={"heads": [], "ffns": []}, pruning={"levels": [0, 50], "controls": ["token", "target"]})
        with_controls = {job.rule: job for job in workload.jobs(more, prompts(), costs, HERE)}
        assert with_controls["evaluate_own"].longest == pytest.approx(fixed + 3 * costs.forward(load) / HERE.forward)
        # Of FFNs, only orders that no score of heads alone makes have curves: here three for one, half of them pruned.
        orders = study(pruning={"levels": [0, 50], "controls": ["target", "random_1", "reversed"]})
        one, three = (workload.operations("score_ffns", s, costs, prompts()[0])[0] for s in (settings, orders))
        curve = costs.forward(load, ffns=1 - (costs.layers // 2) / costs.layers)
        assert (one, three) == pytest.approx((costs.oracle(load) + curve, costs.oracle(load) + 3 * curve))
        assert workload.operations("select_ffns", orders, costs, prompts()[0])[0] < one + curve
        both = costs.forward(load) + costs.backward(load)
        assert by_rule["score_heads"].longest == pytest.approx(fixed + both / HERE.backward)
        lengths = [4 * sequence_length(seed) for seed in range(1, 101)]
        assert by_rule["score_induction"].operations == pytest.approx(costs.induction(lengths))

    def test_each_kind_of_ablation_beside_zeros_costs_a_pass_over_the_scoring_documents(self):
        costs, load = costs_of(tiny_model("llama")), Load(1000.0, 50_000.0, 20.0)
        prompts = workload.Prompts("a", 0, Load(300.0, 9000.0, 5.0), load, load)
        once = costs.activations(prompts.scoring)

        def more(rule, kind, *controls):
            pruning = {"levels": [0, 50], "controls": [*controls]}
            asked = [study(ablation=chosen, pruning=pruning) for chosen in (kind, "zero")]
            return [workload.operations(rule, each, costs, prompts) for each in asked]

        evaluating = ("score_ffns", "select_ffns", "score_head_knockouts", "evaluate_own", "evaluate_aggregate",
                      "evaluate_iterative", "evaluate_custom", "evaluate_learned", "evaluate_joint",
                      "evaluate_transfer", "ablate_induction")  # fmt: skip
        for kind, rule in product(("mean", "resample"), evaluating):
            (other, _), (zero, _) = more(rule, kind)
            assert other - zero == pytest.approx(once), rule
        for rule in ("score_heads", "rank_custom", "rank_heads_iteratively", "learn_mask"):
            other, zero = more(rule, "mean")
            assert other == zero
        # A control under another kind costs its curve and its pass; where it gives zeros, its curve alone.
        (other, _), (zero, _) = more("evaluate_own", "mean", "own_resample")
        assert other - zero == pytest.approx(once)
        alone = workload.operations("evaluate_aggregate", study(pruning={"levels": [0, 50]}), costs, prompts)[0]
        assert zero == pytest.approx(once + 1.5 * alone)

    def test_pruned_ffns_cost_nothing(self):
        costs, load = costs_of(tiny_model("llama")), prompts()[0].evaluation
        assert costs.forward(load, ffns=2 / 3) < costs.forward(load)

    def test_opt_66b_fits_an_h200_and_not_an_a100(self):
        """The paper's model on a node that can be had, by its published shape."""
        from transformers import OPTConfig

        config = OPTConfig(
            vocab_size=50272, hidden_size=9216, ffn_dim=36864, num_hidden_layers=64, num_attention_heads=72,
            max_position_embeddings=2048, word_embed_proj_dim=9216,
        )  # fmt: skip
        model = model_from_config(config, torch.bfloat16)
        costs = costs_of(model)
        assert costs.parameters == pytest.approx(65.7e9, rel=0.01)
        assert costs.attention * 64 == pytest.approx(21.7e9, rel=0.01)
        assert costs.ffn * 64 == pytest.approx(43.4e9, rel=0.01)
        large, small = (workload.hardware_line(name, "bfloat16") for name in ("h200-141gb", "a100-80gb"))
        for kind in range(3):
            assert workload.memory(costs, large, kind) < large.memory
        planned = workload.jobs(study(), prompts(), costs, small)
        asked = {job.rule: workload.request(job.rule, study(), costs, small, job.longest) for job in planned}
        settings = study().model_copy(update={"dtype": "bfloat16", "device": "cuda", "gpus": 2, "threads": 3})
        text = plan.format_plan(model, settings, costs, small, planned, asked)
        assert "bfloat16: 122.4 GiB of weights" in text
        assert "Each asks for 2 GPUs and 3 CPU cores, too." in text
        assert "The weights do not fit: 122 of 79 GiB" in text

    def test_prompts_are_counted_as_they_are_packed(self, tmp_path, tokenizer):
        from lm_headroom.artifacts.prompts import PROMPTS
        from lm_headroom.artifacts.store import write

        texts = [("importance", n) for n in range(3)] + [("evaluation", n) for n in range(6)]
        columns = {name: [] for name in (column.name for column in PROMPTS.columns)}
        for purpose, number in texts:
            for choice in range(2):
                row = {
                    "doc_id": number, "question": number, "purpose": purpose, "split": "x", "choice": choice,
                    "context": f"The sun rose {number} times", "continuation": [" again", " never"][choice],
                    "gold": choice == 0, "metric": "acc", "choice_length": 6, "turns": None, "reply": None,
                }  # fmt: skip
                for name in columns:
                    columns[name].append(row[name])
        for task in ("a", "b"):
            write(tmp_path / "prompts" / task / "0shot-seed1234.parquet", PROMPTS, columns, {})
        all_of_them = plan.read_prompts(study(), tmp_path, tokenizer, 256, 100)
        half = plan.read_prompts(study(), tmp_path, tokenizer, 256, 3)
        assert [p.loads.task for p in all_of_them] == ["a", "b"]
        assert all_of_them[0].loads.scoring.columns > 0
        assert half[0].loads.evaluation.columns == pytest.approx(all_of_them[0].loads.evaluation.columns, rel=0.05)

    def test_missing_prompts_say_how_to_render_them(self, tmp_path, tokenizer):
        with pytest.raises(HeadroomError, match="no such prompts.*snakemake prompts --configfile STUDY"):
            plan.read_prompts(study(), tmp_path, tokenizer, 256, 3)

    def test_unknown_hardware_names_the_nearest(self):
        with pytest.raises(HeadroomError, match=r"'h100' is unknown \(did you mean 'h100-80gb'\?\)"):
            workload.hardware_line("h100", "bfloat16")

    def test_this_machine_can_be_measured(self):
        node = plan.measure_hardware(tiny_config("llama", 523), "float32", 1)
        assert node.backward > 1e6
        assert 1e6 < node.forward < 1e15
        assert node.memory > 2**30
