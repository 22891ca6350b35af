"""Which of the task's metrics a phrase means."""

from collections.abc import Mapping
from dataclasses import dataclass

from nightlab.agents.goal import words
from nightlab.agents.goal.amount import family
from nightlab.agents.goal.lexeme import Lexeme
from nightlab.errors import UsageError
from nightlab.vocabulary import Direction


@dataclass(frozen=True)
class Measured:
    """What the task measures."""

    metrics: Mapping[str, Direction]
    primary: str

    def better(self, metric: str) -> Direction:
        return self.metrics[metric]

    def called(self, lexeme: Lexeme) -> str:
        """The metric that a phrase names.

        Raises UsageError where the task does not measure it, or at several context lengths.
        """
        name = self.primary if lexeme.name == "quality" else lexeme.name
        if lexeme.context is not None and "@" not in name:
            return self._at(name, lexeme.context)
        return self.named(name)

    def named(self, name: str) -> str:
        """The metric of that name, or the only one of that family."""
        if name in self.metrics:
            return name
        lengths = [metric for metric in self.metrics if family(metric) == name]
        if len(lengths) > 1:
            raise UsageError(f"{name} at which context? This task measures {', '.join(lengths)}")
        if not lengths:
            raise UsageError(f"this task does not measure {name}; it measures {self.listed()}")
        return lengths[0]

    def _at(self, name: str, length: int) -> str:
        lengths = [metric for metric in self.metrics if metric.startswith(f"{name}@")]
        for tokens in (length, round(length / 1.024)):
            if f"{name}@{tokens}" in lengths:
                return f"{name}@{tokens}"
        if not lengths and name in self.metrics and name not in words.AT_CONTEXT:
            return name
        raise UsageError(
            f"this task does not measure {name} at context {length}; it measures {self.listed()}"
        )

    def speed(self) -> str:
        """The metric that "faster" is about where nothing is named."""
        for name in ("train_tokens_per_s", "decode_ms", "prefill_ms"):
            if any(family(metric) == name for metric in self.metrics):
                return self.named(name)
        raise UsageError(f"this task measures no speed; it measures {self.listed()}")

    def listed(self) -> str:
        return ", ".join(self.metrics)
