"""Other methods of stylization on the same models, for comparison."""

from __future__ import annotations

from stylescore.baselines.sdedit import sdedit as sdedit
