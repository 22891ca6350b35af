"""The goal grammar: a sentence in the field's words to an Objective, without a language model.

The way of a sentence: :mod:`lexeme` cuts it into pieces by the vocabulary of :mod:`words`,
:mod:`quantity` joins numbers with their units, :mod:`grammar` groups the pieces into clauses, and
:mod:`reading` makes of them one aim, its constraints and its budget, or says what it cannot read.
"""

from nightlab.agents.goal.reading import Reading, Understood, read
from nightlab.agents.goal.show import describe, document, outline

__all__ = ["Reading", "Understood", "describe", "document", "outline", "read"]
