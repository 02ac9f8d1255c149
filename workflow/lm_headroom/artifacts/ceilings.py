"""Columns that every artifact of rank correlations has: what noise and layers make of them."""

import pyarrow as pa

from lm_headroom.artifacts.store import Column

CEILINGS = (
    Column(
        "noise_ceiling",
        pa.float64(),
        "largest SRCC that the split-half reliabilities allow where noise is independent",
        nullable=True,
    ),
    Column(
        "p_permutation",
        pa.float64(),
        "one-sided p-value of srcc against shuffles of the heads within their layers and key-value groups",
        undefined=True,
    ),
    Column(
        "reliability_a",
        pa.float64(),
        "Spearman-Brown reliability of the first ranking; missing where its halves do not agree at all",
        nullable=True,
    ),
    Column("reliability_b", pa.float64(), "the same of the second ranking", nullable=True),
    Column(
        "srcc_corrected",
        pa.float64(),
        "SRCC corrected for attenuation; may exceed 1; missing where a reliability is too low, or a ranking meets "
        "itself or an aggregate that it is part of",
        nullable=True,
    ),
)
