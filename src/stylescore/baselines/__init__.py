"""Rivals of the method, on the same models, to compare with."""

from __future__ import annotations

from stylescore.baselines.sdedit import sdedit as sdedit
