"""All kinds of artifacts. No step imports this: a schema belongs to the steps that read or write it."""

from headroom.artifacts.capacity import CAPACITY
from headroom.artifacts.comparison import (
    COMPARED_INDUCTION,
    COMPARED_MODELS,
    COMPARED_PROFILES,
    COMPARED_PRUNABLE,
    COMPARED_RANKINGS,
)
from headroom.artifacts.copying import COPYING
from headroom.artifacts.cross_shot import CROSS_SHOT
from headroom.artifacts.cross_task import CROSS_TASK
from headroom.artifacts.ffn_gradient import FFN_GRADIENT
from headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from headroom.artifacts.ffn_selection import FFN_SELECTION
from headroom.artifacts.head_importance import HEAD_IMPORTANCE
from headroom.artifacts.head_oracle import HEAD_ORACLE
from headroom.artifacts.induction_ablation import INDUCTION_ABLATION
from headroom.artifacts.oracle_agreement import ORACLE_AGREEMENT
from headroom.artifacts.prefix_matching import PREFIX_MATCHING
from headroom.artifacts.prompts import PROMPTS
from headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
from headroom.artifacts.ranking import FFN_RANKING, RANKING
from headroom.artifacts.recomputed_ranking import RECOMPUTED_RANKING
from headroom.artifacts.seed_scores import SEED_SCORES

KINDS = (
    # First: no model may be called prompts, but a task may be called like a step's folder.
    PROMPTS,
    CAPACITY,
    COPYING,
    CROSS_SHOT,
    CROSS_TASK,
    FFN_GRADIENT,
    FFN_IMPORTANCE,
    FFN_RANKING,
    FFN_SELECTION,
    HEAD_IMPORTANCE,
    INDUCTION_ABLATION,
    HEAD_ORACLE,
    JOINT_EVAL,
    ORACLE_AGREEMENT,
    PREFIX_MATCHING,
    PRUNED_EVAL,
    RANKING,
    RECOMPUTED_RANKING,
    SEED_SCORES,
    COMPARED_MODELS,
    COMPARED_PRUNABLE,
    COMPARED_RANKINGS,
    COMPARED_INDUCTION,
    COMPARED_PROFILES,
)
