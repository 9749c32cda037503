"""Where one host's life stands: its plan and the reducer's state, as they are now.

Whoever takes part in the life reads it; ``run.py`` alone moves it on.
"""

from __future__ import annotations

import time

from supervisor.contract.distribution import Strategy
from supervisor.life.ending import verdict_of
from supervisor.life.outcome import host_exit_code
from supervisor.life.state import Process, Setup, State, initial
from supervisor.life.words import Cause, Outcome, Phase, Role, Verdict
from supervisor.plan.plan import Plan


class Present:
    """The plan by which this host lives, where the reducer stands, and how much time is left."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.state = _initial_state(plan)
        self.stop_at: float | None = None
        """When the platform kills us, ``time.monotonic()``; None while no stop was asked for."""

    @property
    def left_s(self) -> float | None:
        """Until the platform kills us; may be negative. None while no stop was asked for."""
        return None if self.stop_at is None else self.stop_at - time.monotonic()

    @property
    def verdict(self) -> Verdict:
        """The job's, or this host's own where none was heard. Once there is a cause."""
        cause = self.state.cause
        assert cause is not None, "a life ends for a cause"
        return self.state.verdict or verdict_of(self.state, cause)

    @property
    def succeeded(self) -> bool:
        return self.verdict.outcome is Outcome.SUCCEEDED

    @property
    def exit_code(self) -> int:
        """The supervisor's, as far as it is known; see ``outcome.EXIT_CODES``."""
        state = self.state
        return host_exit_code(
            self.plan.host,
            self.verdict,
            state.script_status,
            left=state.left,
            publish_error=state.publish_error,
            fenced=state.fenced,
            stopped_code=self.plan.stopped_code,
            restartable_code=self.plan.contract.settings.restartable_exit_code,
        )

    @property
    def why_down(self) -> Cause | None:
        """Why processes are brought down now: for the end of the job, or for another attempt."""
        state = self.state
        if state.cause is None and state.phase is Phase.RESTARTING and state.order is not None:
            return state.order.cause
        return state.cause

    @property
    def may_restart(self) -> bool:
        """Whether this job may go on after a failure."""
        return self.state.restarts

    def attempt_of(self, process: str) -> int:
        """With which attempt that process was started last, or is to be; of a step 1."""
        return next((each.attempt for each in self.state.processes if each.name == process), 1)

    def stopped_by_us(self, process: str) -> bool:
        """Whether we sent that process its stop signal."""
        return any(each.name == process and each.stopped_by_us for each in self.state.processes)


def _initial_state(plan: Plan) -> State:
    setup = Setup(
        host=plan.host,
        master=plan.master,
        hosts=plan.hosts,
        success_policy=plan.success_policy,
        # The variables live on the parameter servers, and the coordinator waits for its workers:
        # the chief's last checkpoint needs both. The ranks of an MPI job are mpirun's to stop.
        chief_first=plan.strategy in {Strategy.PS, Strategy.MPI},
        budgets=plan.budgets,
        success_share=plan.success_share,
        tolerated_failures=plan.tolerated_failures,
        evaluator=plan.evaluator,
        scriptless=plan.scriptless,
        agreement=plan.restore_agreement,
        own_lines=plan.contract.settings.checkpoint_hosts == "all",
        strategy=plan.strategy.value,
        policy=plan.restart_policy,
        servers=plan.contract.ps_hosts,
        cluster=plan.cluster,
        world=plan.world,
        min_hosts=plan.min_hosts,
    )
    return initial(
        setup,
        tuple(
            Process(
                spec.name,
                server=spec.essential,
                step=spec.role is Role.PREPARE,
                stop_signal=spec.stop_signal,
                shelters_scripts=spec.role is Role.SSHD,
            )
            for spec in (*plan.steps, *plan.processes)
        ),
    )
