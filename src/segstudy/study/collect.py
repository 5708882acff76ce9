"""From a folder of runs to tests that may be compared."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segstudy.config.run_folder import MACHINE_SETTINGS
from segstudy.errors import DataError, first_line
from segstudy.files import read_text
from segstudy.runs.record_schema import parse_record
from segstudy.runs.tables import comparable, variants
from segstudy.study.analysis.plan import Plan
from segstudy.study.results import TestResult, read_run

Records = Mapping[str, Mapping[str, Any]]


def read_records(folder: Path) -> tuple[dict[str, dict[str, Any]], list[tuple[str, str]]]:
    """The records of a study's runs by folder name, and (name, reason) of those that cannot be read.

    Raises DataError if the folder holds no run.
    """
    found, broken = {}, []
    for file in sorted(folder.glob("*/record.json")):
        try:
            found[file.parent.name] = parse_record(read_text(file))
        except (OSError, ValueError) as error:
            broken.append((file.parent.name, f"its record.json cannot be read: {error}"))
    if not found and not broken:
        there = sorted(p.name for p in folder.iterdir() if p.is_dir())[:8] if folder.is_dir() else "no such folder"
        raise DataError(f"no runs in {folder}\n  expected: {folder}/RUN/record.json\n  found:    {there}")
    return found, broken


def read_study(folder: Path) -> tuple[list[list[TestResult]], list[tuple[str, str]]]:
    """The tests of a study's finished runs, in groups that may be compared, and (name, reason) of the other runs."""
    records, left_out = read_records(folder)
    for name, record in records.items():
        if record.get("status") == "failed":
            left_out.append((name, f"failed: {record.get('error')}"))
        elif record.get("status") != "done":
            left_out.append((name, "not finished: the same command continues it"))
    done = {name: r for name, r in records.items() if r.get("status") == "done"}
    groups = []
    for members in comparable(done):
        names = variant_names(members)
        tests = []
        kept: dict[tuple[str, Any], str] = {}
        for run, record in members.items():
            same = names[run], record.get("seed", 0)
            if same in kept:
                left_out.append((run, f"the same variant and seed as {kept[same]}: a seed counts once"))
                continue
            try:
                tests.append(read_run(folder / run, record, names[run]))
                kept[same] = run
            except (DataError, LookupError, TypeError, OSError, ValueError, EOFError, BadZipFile) as error:
                left_out.append((run, str(error) if isinstance(error, DataError) else f"its test is damaged: {error}"))
        if tests:
            groups.append(tests)
    return groups, left_out


def variant_names(runs: Records) -> dict[str, str]:
    """Each run's variant: its short name without the seed, the same for all its seeds."""
    bare = {run: variant_changes(record.get("changes", [f"model={run}"])) for run, record in runs.items()}
    first = {tuple(changes): run for run, changes in reversed(bare.items())}
    order = [run for run in runs if run in first.values()]
    named = dict(zip(order, variants({run: {"changes": bare[run]} for run in order}), strict=True))
    return {run: named[first[tuple(changes)]] for run, changes in bare.items()}


def variant_changes(changes: Sequence[str]) -> list[str]:
    """The changes that make a variant: without the seed, and without what only says where and how it was run."""
    return [c for c in changes if not c.startswith("seed=") and not MACHINE_SETTINGS.match(c.partition("=")[0])]


def read_plan(folder: Path) -> Plan:
    """The `report` section of the first run's config; the default if no run has one.

    Raises DataError for a config that cannot be read: its plan could be the one that was meant.
    """
    for file in sorted(folder.glob("*/config.yaml")):
        try:
            section = OmegaConf.to_container(OmegaConf.create(read_text(file))).get("report")  # type: ignore[union-attr]
        except (OSError, ValueError, AttributeError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise DataError(f"{file} cannot be read as a config: {first_line(error)}\n  → remove that run") from error
        if section:
            return Plan.of(section)
    return Plan()


def runs_by_variant(tests: Sequence[TestResult]) -> dict[str, list[TestResult]]:
    """The tests by variant, each variant's in the order of their seeds; variants in the order of their first run."""
    found: dict[str, list[TestResult]] = {}
    for test in tests:
        found.setdefault(test.variant, []).append(test)
    return {name: sorted(runs, key=lambda t: t.seed) for name, runs in found.items()}
