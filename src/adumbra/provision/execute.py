"""Carries a plan out: one attempt, step by step, each outcome recorded before the next step. Chooses nothing."""

from __future__ import annotations

from collections.abc import Callable

from adumbra.provision.plan import check_plan, describe
from adumbra.provision.protocol import Finishing, Provider
from adumbra.schema.errors import AdumbraError, ProvisionError
from adumbra.schema.plans import Plan, StepOutcome


def execute(
    plan: Plan,
    provider: Provider,
    record: Callable[[int, StepOutcome], None],
    done: frozenset[int] = frozenset(),
) -> None:
    """Performs the steps of a plan in order, all but those in `done` (indices of steps that an earlier attempt finished).

    `record(index, outcome)` is called after each attempt and before the next one; what it raises ends the attempt. A step
    whose outcome was lost is performed again, which is harmless. Raises ProvisionError at the first step that fails, with
    that outcome recorded: running the same plan again goes on from there. A provider that has a last act (Finishing) is asked
    for it after the last step, whose outcome has the index after it.
    """
    if plan.provider != provider.rules.provider:
        raise ProvisionError(
            f"carrying out a plan for {plan.provider} with {provider.rules.provider}", "give the provider that the plan names"
        )
    check_plan(plan)
    for index, step in enumerate(plan.steps):
        if index in done:
            continue
        doing = f"step {index + 1} of {len(plan.steps)}, {describe(step)}"
        try:
            outcome = provider.perform(step)
        except AdumbraError as error:
            record(index, StepOutcome(done=False, detail=str(error)))
            raise ProvisionError(
                f"{doing}: {error.what}", error.mend or "mend that, then run the same command again"
            ) from error
        record(index, outcome)
        if not outcome.done:
            raise ProvisionError(f"{doing}: {outcome.detail or 'not done'}", "mend that, then run the same command again")
    if isinstance(provider, Finishing) and len(plan.steps) not in done:
        _finish(plan, provider, record)


def _finish(plan: Plan, provider: Finishing, record: Callable[[int, StepOutcome], None]) -> None:
    """The provider's last act, recorded as if it were one more step."""
    try:
        outcome = provider.finish(plan)
    except AdumbraError as error:
        record(len(plan.steps), StepOutcome(done=False, detail=str(error)))
        raise ProvisionError(
            f"after the last step: {error.what}", error.mend or "mend that, then run the same command again"
        ) from error
    if outcome is not None:
        record(len(plan.steps), outcome)
