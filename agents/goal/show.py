"""A reading for people, and for programs."""

from nightlab.agents.goal.budget import spent
from nightlab.agents.goal.constraint import told
from nightlab.agents.goal.reading import Reading
from nightlab.vocabulary import Objective


def describe(reading: Reading) -> str:
    """How the goal was understood, in lines of plain text."""
    rows = [(f'"{part.words}"', part.meaning) for part in reading.understood]
    width = max(len(words) for words, _ in rows)
    lines = [f"goal        {reading.sentence}", *outline(reading.objective), "understood"]
    lines += [f"  {words:<{width}}  {meaning}" for words, meaning in rows]
    if reading.ignored:
        lines.append("no meaning  " + ", ".join(f'"{words}"' for words in reading.ignored))
    return "\n".join(lines)


def outline(objective: Objective) -> list[str]:
    """An objective, a line for each of its parts."""
    target = "as far as the budget allows"
    if objective.target_percent is not None:
        target = f"{objective.target_percent:g} % better than the baseline"
    if objective.target_value is not None:
        target = f"{objective.target_value:,.10g}"
    return [
        f"metric      {objective.metric}, {objective.direction} is better",
        f"target      {target}",
        f"constraints {'; '.join(map(told, objective.constraints)) or 'none'}",
        f"budget      {spent(objective.budget)}",
    ]


def document(reading: Reading) -> dict[str, object]:
    """The same as :func:`describe`, of JSON's own types."""
    objective = reading.objective
    budget = objective.budget
    return {
        "goal": reading.sentence,
        "objective": {
            "metric": objective.metric,
            "direction": objective.direction.value,
            "target_percent": objective.target_percent,
            "target_value": objective.target_value,
            "constraints": [
                {"metric": c.metric, "op": c.op, "value": c.value, "relative": c.relative}
                for c in objective.constraints
            ],
            "budget": {
                "seconds": budget.seconds,
                "trials": budget.trials,
                "usd": budget.usd,
                "tokens": budget.tokens,
                "gpu_seconds": budget.gpu_seconds,
            },
        },
        "context": reading.context,
        "understood": [{"words": p.words, "meaning": p.meaning} for p in reading.understood],
        "ignored": list(reading.ignored),
    }
