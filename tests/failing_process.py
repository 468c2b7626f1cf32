"""What a test puts into a configuration to let one of several processes fail."""

from __future__ import annotations

import ignite.distributed as idist
from ignite.engine import Engine, Events

MESSAGE = "this process was told to fail"


class FailAt:
    """Handler that raises in one process when an iteration starts.

    Args:
        rank: of the process.
        iteration: of the whole run, from 1.
    """

    def __init__(self, rank: int, iteration: int) -> None:
        self.rank, self.iteration = rank, iteration

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED(once=self.iteration), self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() == self.rank:
            raise RuntimeError(MESSAGE)
