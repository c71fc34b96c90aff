"""LP-FT (Kumar et al., arXiv 2202.10054): fit the head on frozen features first, then train everything
slowly.

A random head would distort good features in its first steps; a fitted one does not.
"""

from __future__ import annotations

from medfm.finetuning.strategies.full import Full


class LPFT(Full):
    starts_from_probe = True
