"""The documents and pictures of the real null and known-answer campaigns."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nightlab.agents.bench_planted.edits import Kind, known, nulls, unseen
from nightlab.agents.bench_planted.run import Played, Say, confirmed, play
from nightlab.evals.bench_null import Claim
from nightlab.evals.task import load

Document = Mapping[str, object]


def real_null(
    *, edits: int, task: str, tier: str, home: Path, folder: Path, seed: int, workers: int, say: Say
) -> Document:
    """A campaign of edits that change nothing.

    Beside ``edits`` ones that have to be trained, those that the vetting sees through.
    """
    baseline = load(task).baseline
    planted = [*unseen(baseline), *nulls(baseline, edits)]
    played = play(
        planted, task=task, tier=tier, home=home, folder=folder, seed=seed, workers=workers, say=say
    )
    trained = [row for row in played.rows if row["trials"]]
    kept = confirmed(played.rows, Kind.NULL)
    claims = [
        _claim("null edits confirmed", 0, kept, "edits", holds=kept == 0),
        _claim("null edits trained", edits, len(trained), "edits", holds=len(trained) >= edits),
    ]
    return _document("null --real", [played], claims, folder, seed, task, tier)


def real_known(
    *, task: str, tier: str, home: Path, folder: Path, seed: int, workers: int, say: Say
) -> Document:
    """Every gain in a campaign of its own, and one campaign of losses and null edits."""
    planted = known(load(task).baseline)
    gains = [[one] for one in planted if one.kind is Kind.GAIN]
    others = [one for one in planted if one.kind is not Kind.GAIN]
    played = [
        play(
            group,
            task=task,
            tier=tier,
            home=home,
            folder=folder,
            seed=seed + number,
            workers=workers,
            say=say,
        )
        for number, group in enumerate([others, *gains])
    ]
    rows = [row for one in played for row in one.rows]
    found, wrong = confirmed(rows, Kind.GAIN), len(rows) - len(gains)
    kept = sum(row["verdict"] == "confirmed" for row in rows) - found
    claims = [
        _claim("known gains confirmed", len(gains), found, "edits", holds=found == len(gains)),
        _claim(f"of {wrong} losses and null edits confirmed", 0, kept, "edits", holds=kept == 0),
    ]
    return _document("known --real", played, claims, folder, seed, task, tier)


def _claim(name: str, target: float, measured: float, unit: str, *, holds: bool) -> Claim:
    return Claim(name=name, target=target, measured=measured, unit=unit, holds=holds)


def _document(
    bench: str,
    played: Sequence[Played],
    claims: Sequence[Claim],
    folder: Path,
    seed: int,
    task: str,
    tier: str,
) -> Document:
    return {
        "bench": bench,
        "settings": {
            "task": task,
            "tier": tier,
            "seed": seed,
            "ledger": str(folder / "ledger.db"),
            "campaigns": [one.campaign for one in played],
            "paired_sd": [one.paired_sd for one in played],
            "trials": sum(one.trials for one in played),
            "seconds": round(sum(one.seconds for one in played), 1),
        },
        "rows": [dict(row) for one in played for row in one.rows],
        "claims": list(claims),
    }


def plot(document: Document, path: Path) -> None:
    """Screening gains of every edit in paired sigmas, with what became of them, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = document["rows"]
    assert isinstance(rows, list)
    shown = [row for row in rows if row["screen_gain_sigmas"] is not None]
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.28 * len(shown)), layout="constrained")
    for place, row in enumerate(reversed(shown)):
        kept = row["verdict"] == "confirmed"
        colour = {"gain": "#009E73", "loss": "#D55E00"}.get(row["known"], "#777777")
        axes.barh(place, row["screen_gain_sigmas"], color=colour, alpha=1.0 if kept else 0.55)
        if kept:
            axes.annotate(" confirmed", (row["screen_gain_sigmas"], place), va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [row["edit"] for row in reversed(shown)], fontsize=8)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("mean screening gain, in paired sigmas")
    axes.set_title(f"bench {document['bench']}", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
