"""The runner: runs a stage's pending items and records results in its manifest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from msgspec import structs

from ...data.artifact import digest_of_value
from ...data.errors import SlideError, WsipipeError
from ...data.known_records import no_garbage_collection
from ...data.manifest import ErrorRecord, Json, Manifest, Record
from ...data.shards import Shard, clear_roll
from ...data.version import __version__
from ...data.workspace import keep_within
from ...stages.stage import Item, Progress, Stage
from ..console import Console
from ..results import Failure, Result, Summary, rates
from .decisions import Decision, History, decide, kept_settings, refuse_other_settings
from .here import run_here
from .outcomes import Executor, failed
from .processes import run_in_processes
from .run_log import RunLog
from .sharing import held, part_of, refuse_missing, waits_for
from .staging import staged
from .usage import Usage

_KEPT = ("inputs", "settings")
"""Fields that are brought up to date in the record of an item that is current."""


class Elsewhere(Protocol):
    """Other machines, which see the workspace."""

    def prepared(self, stage: Stage[Any]) -> Stage[Any]:
        """The stage as it runs there; the kind of device may decide the precision of its numbers."""

    def run(
        self, stage: Stage[Any], items: Sequence[Item], progress: Progress, notes: list[str]
    ) -> Generator[Result, None, None]:
        """Run the items there; an executor (:data:`.outcomes.Executor`)."""

    def close(self) -> None:
        """Leave them, at the end of the command."""


class Runner:
    """Runs stages over a workspace.

    :param retry_failed: try items again that failed because of their input, even if it has not changed.
    :param replace: replace results that were made with other settings.
    :param elsewhere: the machines that items of some stages run on; default: this one.
    :param shard: do this part of the items.
    :param stage_to: folder on a local disk to which slides are copied ahead of their turn; large scratch files too.
    :param stage_bytes: most bytes of these copies at a time.
    """

    def __init__(
        self,
        workspace: Path,
        console: Console,
        *,
        retry_failed: bool = False,
        replace: bool = False,
        elsewhere: Elsewhere | None = None,
        shard: Shard | None = None,
        stage_to: Path | None = None,
        stage_bytes: int | None = None,
    ) -> None:
        self.workspace = workspace
        self.console = console
        self.retry_failed = retry_failed
        self.replace = replace
        self.elsewhere = elsewhere
        self.shard = shard
        self.stage_to, self.stage_bytes = stage_to, stage_bytes

    def run(self, stage: Stage[Any]) -> Summary:
        """Bring a stage up to date.

        :raises UsageError: other settings would replace results that are there (see ``replace``).
        :raises UsageError: a link leads out of the workspace.
        :raises UsageError: shards of what it is made from have not finished.
        :raises BusyError: another run writes to the same folder.
        """
        keep_within(stage.workspace)
        if self.elsewhere is not None:
            stage = self.elsewhere.prepared(stage)
        begin = time.monotonic()  # the clock on the wall may be set back meanwhile
        refuse_missing(stage, self.shard)
        if (roll := waits_for(stage, self.shard)) is not None:
            waits = f"made when all shards have finished; still to come: {roll}"
            self.console.note(f"{stage.name}: {waits}")
            return Summary(stage.name, stage.folder, stage.items, notes=(waits,), waits=waits)
        with held(stage, self.shard) as (manifest, recovered), Usage() as usage, RunLog(stage, usage) as log:
            with no_garbage_collection():
                plan = stage.plan()
                if self.shard is not None and stage.distributes:
                    plan = part_of(plan, stage, self.shard)
                history = History(stage.manifest, stage.name)
                decisions = [decide(stage, item, history, retry_failed=self.retry_failed) for item in plan.items]
            if not self.replace:
                refuse_other_settings(stage, decisions, history)
            if kept := [record for decision in decisions if (record := self._kept(stage, decision, history))]:
                manifest.append(*kept)  # all at once: a workspace may have been moved
            judged = {d.item.id: self._judge(stage, manifest, d, history) for d in decisions if d.verdict == "judged"}
            for note in (*recovered, *plan.notes):
                self.console.note(f"{stage.name}: {note}")
            log.planned(Counter(decision.verdict for decision in decisions), len(plan.rejected))
            closing_notes: list[str] = []
            rejected = self._reject(stage, manifest, plan.rejected, history, log)
            results = [*rejected, *self._do(stage, manifest, decisions, closing_notes, log)]
            if self.shard is None and stage.distributes:
                clear_roll(stage.folder, len(plan.items) + len(plan.rejected))
        outcomes = [result.outcome for result in results if result.outcome]
        waiting = [d.record for d in decisions if d.verdict == "waiting" and d.record is not None]
        return Summary(
            stage=stage.name,
            folder=stage.folder,
            items=stage.items,
            done=sum(outcome.status == "done" for outcome in outcomes),
            empty=sum(outcome.status == "empty" for outcome in outcomes),
            before=sum(d.verdict == "current" for d in decisions),
            failures=(
                *(_failure(result.item.id, result.error) for result in results if result.error),
                *(_failure(item, error) for item, error in judged.items()),
                *(_failure(record.item, record.error, waiting=True) for record in waiting if record.error),
            ),
            notes=(*recovered, *plan.notes, *(note for outcome in outcomes for note in outcome.notes), *closing_notes),
            units=sum(int(outcome.stats.get(stage.unit, 0)) for outcome in outcomes) if stage.unit else 0,
            unit=stage.unit,
            seconds=time.monotonic() - begin,
            stats=dict(sum((Counter(_numbers(o.stats)) for o in outcomes), Counter())),
            peak_memory=usage.memory,
            peak_gpu_memory=usage.gpus,
            workers=rates(results, stage.unit),
        )

    def _kept(self, stage: Stage[Any], decision: Decision, history: History) -> Record | None:
        """A current item's record to append again, if it is not the last one or its inputs were moved or touched."""
        record = decision.record
        if decision.verdict != "current" or record is None:
            return None
        now = {"inputs": dict(decision.inputs), "settings": kept_settings(stage), "fingerprint": decision.fingerprint}
        if history.last(decision.item.id) != record or any(getattr(record, name) != now[name] for name in _KEPT):
            return structs.replace(record, **now)
        return None

    def _judge(self, stage: Stage[Any], manifest: Manifest, decision: Decision, history: History) -> ErrorRecord:
        """Record once that an item does not pass the present judgement settings; its outputs stay on disk."""
        hint = "raise the limit to use it; it need not be made again for that"
        error = ErrorRecord(type=SlideError.__name__, message=decision.why, hint=hint, retry=False)
        last = history.last(decision.item.id)
        settings = kept_settings(stage)
        if decision.record is not None and (last is None or (last.error, last.settings) != (error, settings)):
            update = {"status": "failed", "outputs": {}, "error": error, "settings": settings}
            manifest.append(
                structs.replace(
                    decision.record, **update, inputs=dict(decision.inputs), fingerprint=decision.fingerprint
                )
            )
        return error

    def _reject(
        self,
        stage: Stage[Any],
        manifest: Manifest,
        rejected: Mapping[str, WsipipeError],
        history: History,
        log: RunLog,
    ) -> list[Result]:
        results = list(failed((Item(item, {}), error) for item, error in rejected.items()))
        for result in results:
            fingerprint = digest_of_value([stage.name, "rejected", result.error.message if result.error else ""])
            last = history.last(result.item.id)
            if last is None or last.fingerprint != fingerprint:
                self._record(stage, manifest, result, Decision(result.item, "run", "", fingerprint, {}))
            log.item(result)
        return results

    def _do(
        self,
        stage: Stage[Any],
        manifest: Manifest,
        decisions: list[Decision],
        closing_notes: list[str],
        log: RunLog,
    ) -> list[Result]:
        pending = {d.item.id: d for d in decisions if d.verdict == "run"}
        items = [replace(d.item, fingerprint=d.fingerprint) for d in pending.values()]
        results: list[Result] = []
        before = sum(d.verdict == "current" for d in decisions)
        with self.console.stage(stage, items, before=before) as progress:
            if not items:
                return results
            # On other machines slides by URL are copied into the workspace, which they see, and others are not.
            elsewhere = self._elsewhere(stage) is not None
            stage.scratch_place = self.stage_to
            with (
                staged(stage, items, None if elsewhere else self.stage_to, self.stage_bytes) as release,
                nullcontext() if elsewhere else stage.sharing(items, progress),
                closing(self._executor(stage, items)(stage, items, progress, closing_notes)) as running,
            ):  # whatever ends the loop ends the work too, before the lock is given back
                for result in running:
                    release(result.item.id)
                    self._record(stage, manifest, result, pending[result.item.id])
                    log.item(result)
                    results.append(result)
                    progress.finished(result)
                    for note in result.outcome.notes if result.outcome else ():
                        self.console.note(f"{stage.name}: {note}")
            closing_notes += stage.closing_notes()
        for note in closing_notes:
            self.console.note(f"{stage.name}: {note}")
        return results

    def _elsewhere(self, stage: Stage[Any]) -> Elsewhere | None:
        """The other machines, if the stage's items run there."""
        return self.elsewhere if stage.distributes else None

    def _executor(self, stage: Stage[Any], items: Sequence[Item]) -> Executor:
        """The executor: other machines, where there are some and the stage's items may run there; processes if there
        are several devices or workers or if items have a time limit; else this process.
        """
        if there := self._elsewhere(stage):
            return there.run
        alone = min(stage.workers, len(items)) == 1 and stage.seconds_an_item is None
        return run_in_processes if len(stage.devices) > 1 or (stage.processes and not alone) else run_here

    def _record(self, stage: Stage[Any], manifest: Manifest, result: Result, decision: Decision) -> None:
        outcome = result.outcome
        manifest.append(
            Record(
                stage=stage.name,
                stage_version=stage.version,
                item=result.item.id,
                status=outcome.status if outcome else "failed",
                fingerprint=decision.fingerprint,
                settings=kept_settings(stage),
                inputs=dict(decision.inputs),
                outputs=result.outputs,
                stats=dict(outcome.stats) if outcome else {},
                error=result.error,
                start=result.start,
                seconds=result.seconds,
                wsipipe=__version__,
            )
        )


def _failure(item: str, error: ErrorRecord, *, waiting: bool = False) -> Failure:
    hint = error.hint
    if waiting:
        hint = " ".join(filter(None, [hint, "(tried before; --retry-failed tries again)"]))
    return Failure(item, error.message, hint, error.retry)


def _numbers(stats: Mapping[str, Json]) -> dict[str, int]:
    return {name: value for name, value in stats.items() if isinstance(value, int) and not isinstance(value, bool)}
