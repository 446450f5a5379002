"""``wsipipe verify``: checks a workspace or a bundle, shows what was found, and repairs it if asked to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten

from rich.table import Table

from ...data.errors import UsageError, WsipipeError
from ...data.wording import some
from ..console import Console
from .findings import KINDS, Finding
from .repair import Repair, drop_records, mend_manifests
from .verify import Verification, Verifier, next_run

_EXAMPLES = 5
_LONGEST = 160
"""Characters of a reason; what is stale repeats the reason of each of its inputs. ``--json`` has all of it."""


def verify_workspace(workspace: Path, console: Console, *, deep: bool, repair: bool) -> int:
    """Check a workspace and show the findings.

    :returns: the exit code: 0 if nothing is damaged, or all of it was repaired; else 1.
    """
    done = Repair()
    if repair:
        mend_manifests(workspace, done)
    verifier = Verifier(workspace, deep=deep)
    with console.counting("verify", "records", verifier.total) as advance:
        found = verifier.run(advance)
    if repair:
        drop_records(workspace, found.findings, found.begun, done)
    _show(console, found)
    _show_repair(console, done, found, repair=repair)
    again = next_run(found.findings)
    left = _left(found, done, repair=repair)
    console.result(
        {
            "workspace": str(workspace),
            "deep": deep,
            "folders": found.folders,
            "records": found.records,
            "outputs": found.outputs,
            "bytes_read": found.read,
            "findings": [_as_json(finding) for finding in found.findings],
            "dropped": [_as_json(finding) for finding in done.dropped],
            "removed_lines": done.removed_lines,
            "left": done.left,
            "next_run": [
                {"command": f"wsipipe {command}", "folder": folder, "items": items}
                for (command, folder), items in again.items()
            ],
        }
    )
    return 1 if left else 0


def _left(found: Verification, done: Repair, *, repair: bool) -> bool:
    """Whether something is wrong that was not repaired."""
    if not repair:
        return bool(found.of("lost", "damaged", "manifest", "unknown"))
    dropped = {(finding.folder, finding.stage, finding.item) for finding in done.dropped}
    damaged = {(finding.folder, finding.stage, finding.item) for finding in found.of("damaged")}
    return bool(found.of("manifest", "unknown") or damaged - dropped or done.left)


def _as_json(finding: Finding) -> dict[str, str]:
    return {**vars(finding), "severity": finding.severity}


def _show(console: Console, found: Verification) -> None:
    """Print a table of the findings by folder and kind, then examples of each."""
    findings = found.findings
    if findings:
        table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
        table.add_column("folder", overflow="fold")
        table.add_column("stage", overflow="fold")
        table.add_column("finding", no_wrap=True)
        table.add_column("items", justify="right", no_wrap=True)
        for (folder, stage, kind), number in _counts(findings).items():
            colour = "dim" if KINDS[kind].severity == "note" else "red"
            table.add_row(folder, stage, f"[{colour}]{kind}[/]", f"{number:,}")
        console.table(table)
    for (folder, stage, kind), of in _grouped(findings).items():
        items = list(dict.fromkeys(finding.item for finding in of))
        where = f"{folder} ({stage})" if stage else folder
        console.line(f"{kind}: {folder}" if items == [folder] else f"{kind} in {where}: {some(items, _EXAMPLES)}")
        what = shorten(next((finding.what for finding in of if finding.what), ""), _LONGEST, placeholder=" …")
        console.line(f"    {KINDS[kind].meaning}" + (f": {what}" if what else ""))
    how = "every byte" if found.deep else "sizes and counts; --deep reads every byte"
    wrong = len(found.of("lost", "damaged", "manifest", "unknown"))
    sound = "nothing is damaged; what is listed needs no repair" if findings else "nothing is wrong"
    console.line(
        f"checked {found.records:,} records, {found.outputs:,} outputs in {found.folders:,} folders ({how}): "
        f"{f'{wrong:,} wrong' if wrong else sound}"
    )


def _counts(findings: Sequence[Finding]) -> Counter[tuple[str, str, str]]:
    """The number of items with a finding, by folder, stage and kind."""
    return Counter({key: len({finding.item for finding in of}) for key, of in _grouped(findings).items()})


def _grouped(findings: Sequence[Finding]) -> Mapping[tuple[str, str, str], list[Finding]]:
    """The findings by folder, stage and kind; folders in the order of the pipeline, what is wrong first."""
    folders = {folder: rank for rank, folder in enumerate(dict.fromkeys(finding.folder for finding in findings))}
    kinds = {kind: rank for rank, kind in enumerate(KINDS)}
    in_order = sorted(findings, key=lambda finding: (folders[finding.folder], kinds[finding.kind]))
    grouped: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in in_order:
        grouped.setdefault((finding.folder, finding.stage, finding.kind), []).append(finding)
    return grouped


def _show_repair(console: Console, done: Repair, found: Verification, *, repair: bool) -> None:
    """Print what was repaired, and what the next run makes again."""
    for copy, number in done.removed_lines.items():
        console.line(f"removed {number} lines that were no records; the manifest as it was: {copy}")
    if done.dropped:
        dropped = {(finding.folder, finding.stage, finding.item) for finding in done.dropped}
        console.line(f"dropped the records of {len(dropped):,} items")
    for folder, why in done.left.items():
        console.line(f"left as it is: {folder}: {why}")
    damaged = found.of("damaged", "manifest")
    if damaged and not repair:
        again = "wsipipe verify --deep --repair" if found.deep else "wsipipe verify --repair"
        console.line(
            f"`{again}` drops their records, so that the next run makes them again; without, it takes them as good"
        )
    for (command, folder), items in next_run(found.findings if repair else found.of("lost")).items():
        console.line(f"the next `wsipipe {command}` makes again in {folder}: {some(items, _EXAMPLES)}")


def verify_bundle(bundle: Path, console: Console) -> int:
    """Check a trained model that need not be in a workspace: a bundle, or a folder of a bundle for each fold.

    Every byte is read: the tensors fit the network that the bundle describes, and are finite.

    :returns: the exit code: 0 if nothing is wrong, else 1.
    :raises UsageError: there is no bundle.
    """
    from ...models.bundle import folds_of
    from ...stages.output_checks import check_weights

    single = (bundle / "bundle.json").exists()
    if not single and not any(bundle.glob("fold-*/bundle.json")):
        hint = "give a model's folder, such as work/models/her2, or one of its folds; a workspace is given with -w"
        raise UsageError("there is no bundle here", path=bundle, hint=hint)
    wrong: dict[str, list[str]] = {}
    folds = [bundle]
    if not single:
        try:
            folds = [path for path, _ in folds_of(bundle)]
        except WsipipeError as error:
            wrong[str(bundle)] = [str(error)]
            folds = sorted(path.parent for path in bundle.glob("fold-*/bundle.json"))
    with console.counting("verify", "bundles", len(folds)) as advance:
        for fold in folds:
            try:
                faults = [fault.what for fault in check_weights(fold)]
            except WsipipeError as error:
                faults = [str(error)]
            if faults:
                wrong.setdefault(str(fold), []).extend(faults)
            advance(1)
    for path, faults in wrong.items():
        console.line(f"{path}: {'; '.join(dict.fromkeys(faults))}")
    console.line(f"checked {len(folds)} bundles: {f'{len(wrong)} wrong' if wrong else 'nothing is wrong'}")
    console.result({"bundle": str(bundle), "bundles": len(folds), "wrong": wrong})
    return 1 if wrong else 0
