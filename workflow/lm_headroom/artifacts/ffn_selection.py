"""The FFN-selection artifact: FFN importance on the other documents than those that the study ranks by."""

from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.store import ArtifactSchema

FFN_SELECTION = ArtifactSchema(
    "ffn_selection",
    FFN_IMPORTANCE.columns,
    FFN_IMPORTANCE.grids,
)
