"""Which artifacts rank heads or FFNs: by their column rank, or else score, the least important first."""

from __future__ import annotations

from lm_headroom.artifacts.custom_ranking import CUSTOM_RANKING
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.iterative_ranking import ITERATIVE_RANKING
from lm_headroom.artifacts.learned_ranking import LEARNED_RANKING
from lm_headroom.artifacts.ranking import FFN_RANKING, RANKING

OF_EITHER = (CUSTOM_RANKING, LEARNED_RANKING)
"""Artifacts of heads or of FFNs, as ``component`` of their provenance says."""
OF_HEADS = (RANKING, ITERATIVE_RANKING, *OF_EITHER, HEAD_IMPORTANCE)
OF_FFNS = (FFN_RANKING, *OF_EITHER, FFN_GRADIENT, FFN_IMPORTANCE)
