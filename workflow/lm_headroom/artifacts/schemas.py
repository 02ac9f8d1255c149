"""All kinds of artifacts. No step imports this: a schema belongs to the steps that read or write it."""

from lm_headroom.artifacts.capacity import CAPACITY
from lm_headroom.artifacts.comparison import (
    COMPARED_INDUCTION,
    COMPARED_MODELS,
    COMPARED_PROFILES,
    COMPARED_PRUNABLE,
    COMPARED_RANKINGS,
)
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.cross_shot import CROSS_SHOT
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.custom_ranking import CUSTOM_RANKING
from lm_headroom.artifacts.expert_importance import EXPERT_IMPORTANCE
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.ffn_selection import FFN_SELECTION
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.head_oracle import HEAD_ORACLE
from lm_headroom.artifacts.induction_ablation import INDUCTION_ABLATION
from lm_headroom.artifacts.iterative_ranking import ITERATIVE_RANKING
from lm_headroom.artifacts.learned_ranking import LEARNED_RANKING
from lm_headroom.artifacts.oracle_agreement import ORACLE_AGREEMENT
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
from lm_headroom.artifacts.ranking import EXPERT_RANKING, FFN_RANKING, RANKING
from lm_headroom.artifacts.seed_scores import SEED_SCORES

SCHEMAS = (
    # First: no model may be called prompts, but a task may be called like a step's folder.
    PROMPTS,
    CAPACITY,
    COPYING,
    CROSS_SHOT,
    CROSS_TASK,
    CUSTOM_RANKING,
    EXPERT_IMPORTANCE,
    EXPERT_RANKING,
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
    ITERATIVE_RANKING,
    LEARNED_RANKING,
    SEED_SCORES,
    COMPARED_MODELS,
    COMPARED_PRUNABLE,
    COMPARED_RANKINGS,
    COMPARED_INDUCTION,
    COMPARED_PROFILES,
)
