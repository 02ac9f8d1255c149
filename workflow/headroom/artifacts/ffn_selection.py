"""The FFN-selection artifact: FFN importance on the other documents than those that the study ranks by."""

from headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from headroom.artifacts.store import Kind

FFN_SELECTION = Kind(
    "ffn_selection",
    "{model}/ffn_selection/{task}/{k}shot-seed{s}.parquet",
    FFN_IMPORTANCE.columns,
    FFN_IMPORTANCE.grids,
)
