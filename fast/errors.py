"""Parity: not a numeric piece. What ends a run early."""


class TrainingError(RuntimeError):
    """The run cannot go on: names the step and the tensor."""


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written."""


class PeerLost(RuntimeError):
    """The connection to another rank broke."""


class PeerFailed(Exception):
    """Another rank failed and prints the reason."""

    def __init__(self, rank: int):
        """Keep the number of that rank."""
        super().__init__(f"rank {rank} has failed")
        self.rank = rank
