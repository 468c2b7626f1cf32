"""What went wrong with single subjects in any of several processes."""

from __future__ import annotations

from ..failures import SubjectFailures
from .process_group import ProcessGroup


class SharedFailures(SubjectFailures):
    """``SubjectFailures`` of several processes; each logs its own, the main one lists them all.

    Args:
        group: the processes.
    """

    def __init__(self, group: ProcessGroup) -> None:
        super().__init__()
        self.group = group

    def gather(self) -> None:
        """Learn the failures of all processes; to be called by all."""
        # The main process may know better than what it told the others before: it comes last.
        for messages in reversed(self.group.gather(self.messages)):
            self.messages = {**self.messages, **messages}

    def raise_if_any(self) -> None:
        """End every process with exit code 1, and the main one with the list of failures; to be called by all.

        Raises:
            SystemExit: when a subject failed in any of them.
        """
        self.gather()
        try:
            if self.group.is_main:
                super().raise_if_any()
        finally:
            # As soon as one process ends with an error torchrun ends the others: the list must be out before.
            self.group.wait()
        if self.messages:
            raise SystemExit(1)
