"""``nightlab bench search``: measure the arms, write the document, the table and the plot.

python -m nightlab.agents.bench_search.command --tables DIR [--json] [--out DIR]
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightlab.agents.bench_search.claims import Claim, claims
from nightlab.agents.bench_search.protocol import (
    MODES,
    Row,
    Settings,
    arms_of,
    document,
    measure,
    tables_of,
)
from nightlab.agents.bench_search.report import plot, text
from nightlab.agents.policy.stored import warm_path


@dataclass(frozen=True)
class Result:
    """What one bench measured."""

    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    document: Mapping[str, Any]
    """The JSON document: bench, machine, date, settings, rows, claims."""

    def text(self) -> str:
        """The plain form."""
        return text(self.rows, self.claims)

    def plot(self, path: Path) -> None:
        """Write the PNG."""
        plot(self.rows, path)


def bench(
    settings: Settings,
    say: Callable[[str], None] = lambda _: None,
    earlier: Sequence[Row] = (),
) -> Result:
    """Run every arm on every table; ``say`` hears about progress.

    ``earlier`` rows (of the same mode and seeds) join the claims, so that slow arms need not be
    measured again beside a new one.

    Raises UsageError for an unknown table, arm or mode and for weights trained on a tested table;
    MissingError where a table's file is missing.
    """
    rows: list[Row] = list(earlier)
    for table in tables_of(settings):
        tested = table.name.removesuffix("-permuted")
        for name, arm in arms_of(settings, tested).items():
            found = measure(settings, table, name, arm)
            rows += found
            regrets = " / ".join(f"{row.regret:.4f}" for row in found)
            cost = f"{found[0].milliseconds:.1f} ms a look"
            say(f"{table.name} ({settings.mode}), {name}: {regrets}, {cost}")
    decided = claims(rows)
    return Result(tuple(rows), tuple(decided), document(settings, rows, decided))


def stored_rows(paths: Sequence[Path]) -> list[Row]:
    """Rows of earlier documents."""
    found = []
    for path in paths:
        for row in json.loads(path.read_text())["rows"]:
            found.append(Row(**{**row, "regrets": tuple(row["regrets"])}))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--on", nargs="*", default=None, help="table names")
    parser.add_argument("--mode", choices=MODES, default="plain")
    parser.add_argument("--arms", nargs="*", default=[], help="none with --earlier: report only")
    parser.add_argument("--checkpoints", nargs="*", type=int, default=[])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--weights", nargs="*", type=Path, default=None)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--earlier", nargs="*", type=Path, default=[], help="search.json files")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for search.json and search.png")
    given = parser.parse_args(arguments)
    weights = given.weights if given.weights is not None else [warm_path()]
    settings = Settings(
        tables=given.tables,
        names=None if given.on is None else tuple(given.on),
        mode=given.mode,
        arms=tuple(given.arms),
        checkpoints=tuple(given.checkpoints),
        seeds=given.seeds,
        first_seed=given.first_seed,
        weights=tuple(path for path in weights if path.is_file()),
        workers=given.workers,
    )
    earlier = stored_rows(given.earlier)
    result = bench(settings, lambda line: print(line, file=sys.stderr, flush=True), earlier)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "search.json").write_text(json.dumps(result.document))
        result.plot(given.out / "search.png")
    print(json.dumps(result.document) if given.json else result.text())


if __name__ == "__main__":
    main()
