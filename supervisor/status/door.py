"""The master's own door: who is let in as a host of the job, and into which run of it."""

from __future__ import annotations

from supervisor.cluster.admission import Admission, Claim, Seat, admit, may_be_taken_up
from supervisor.cluster.protocol import JobIdentity
from supervisor.life.words import JobState
from supervisor.status.board import JobBoard
from supervisor.status.http import Refused


class Door:
    """Asks ``admission.py``, with what the board says.

    Args:
        board: the job's document.
        job: the master's own.
        rejoins: whether a host that is gone may come back while the job runs.

    """

    def __init__(self, board: JobBoard, job: JobIdentity, *, rejoins: bool) -> None:
        self._board = board
        self._job = job
        self._rejoins = rejoins
        self._attempt = 1
        """The greatest that a host of an earlier life has spoken of."""

    def follows(self, claim: Claim) -> bool:
        """Whether that host follows our run, or one that we may take up."""
        board = self._board
        if not claim.run or claim.run in board.runs:
            return True
        state = board.document.state
        return not board.taken_up and may_be_taken_up(
            claim, job=self._job, state=state, rejoins=self._rejoins
        )

    def take_up(self, claim: Claim, heard: int, attempt: int) -> None:
        """Where a host goes on with a run that began under another master, it is ours from now on.

        Args:
            claim: who says so.
            heard: the revision of the job's document that it knows.
            attempt: the one that it speaks of.

        """
        board = self._board
        own = board.runs - {board.taken_up}
        joining = board.document.state is JobState.JOINING
        if joining and claim.run and claim.run not in own and self.follows(claim):
            self._attempt = max(self._attempt, attempt)
            board.take_up(claim.run, heard)

    def must_have_begun(self, attempt: int) -> None:
        """Refuse whoever speaks of an attempt that the master itself has not come to.

        Raises:
            Refused: 400.

        """
        newest = max(self._board.document.attempt, self._attempt)
        if attempt > newest:
            raise Refused(400, f"attempt: {attempt}, the job is at attempt {newest}")

    def admission(self, seat: Seat, claim: Claim, *, alive: bool, done: bool) -> Admission:
        """Decide about one claim, see ``admission.admit``; ``done``: the host has done its part,
        and is not started again."""
        board = self._board
        return admit(
            seat,
            claim,
            job=self._job,
            runs=board.runs,
            earlier=board.taken_up,
            state=board.document.state,
            alive=alive,
            rejoins=self._rejoins and not done,
        )
