"""Parity: not a numeric piece. What ends a run early."""


class TrainingError(RuntimeError):
    """The run cannot go on: names the step and the tensor."""


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written."""


class PeerLost(RuntimeError):
    """Another rank is gone, and with it the step."""


class PeerFailed(Exception):
    """Another rank has failed and says why."""

    def __init__(self, rank: int):
        """Keep which."""
        super().__init__(f"rank {rank} has failed")
        self.rank = rank
