"""From semi-hard to batch-hard mining: a schedule that follows the fraction of active triplets.

Batch-hard triplets make an untrained network collapse; semi-hard ones teach a trained network nothing more. The
switch depends on figures that are the same on every worker, so all workers switch at the same step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import SupportsFloat

from metric_core.errors import ConfigError
from metric_core.learn.objective import Objective
from metric_core.options import Options, out_of_range


@dataclass(frozen=True)
class HardeningState:
    """The state of the schedule; belongs in the checkpoint."""

    active: float = 1.0
    """Running mean of the active fraction, 0 to 1."""
    hard: bool = False
    """Whether the switch has happened; it happens once."""


@dataclass(frozen=True)
class Hardening(Options):
    """When a triplet objective switches from semi-hard to batch-hard, and by how much its margin changes then."""

    below: float = 0.2
    """Running active fraction, between 0 and 1, below which semi-hard triplets have little left to teach."""
    memory: float = 0.98
    """Weight of the past in the running mean, 0 or more and below 1; 0.98 looks back about 50 steps."""
    margin_factor: float = 1.0
    """Factor by which the margin is multiplied at the switch, above 0."""

    def problems(self) -> list[str]:
        return out_of_range(self, below="(0, 1)", memory="[0, 1)", margin_factor="(0, inf)")

    def objective(self, objective: Objective, state: HardeningState) -> Objective:
        """The objective of the next step. Raises ConfigError if ``objective`` cannot have that miner or margin."""
        if objective.loss != "triplet":
            raise ConfigError(f"a miner schedule needs loss triplet; found {objective.loss}")
        if not state.hard:
            return replace(objective, miner="semi-hard")
        return replace(objective, miner="batch-hard", margin=objective.margin * self.margin_factor)

    def update(self, state: HardeningState, health: Mapping[str, SupportsFloat]) -> HardeningState:
        """The state after a step with this ``health`` (see ``step.global_loss``)."""
        active = self.memory * state.active + (1.0 - self.memory) * float(health["active_fraction"])
        return HardeningState(active, state.hard or active < self.below)
