"""Which language models a command may ask: from the settings, in one place."""

from typing import TYPE_CHECKING, NamedTuple

from nightlab.errors import MissingError, UsageError

if TYPE_CHECKING:
    from nightlab.agents.question import Endpoint
    from nightlab.settings import Settings

HOW = (
    "set NIGHTLAB_MODEL to a model's name (several with commas), and OPENAI_API_KEY or "
    "OPENAI_BASE_URL to where it is"
)


class Proposers(NamedTuple):
    """Who proposes in a campaign."""

    kind: str
    """``catalogue``, ``llm``, or ``auto`` for both."""
    endpoints: "tuple[Endpoint, ...]"
    why: str
    """A line for the person."""


def endpoints(settings: "Settings") -> "tuple[Endpoint, ...]":
    """The models that are configured; none without a name and a place."""
    from nightlab.agents.question import Endpoint

    if not settings.model or not (settings.openai_api_key or settings.openai_base_url):
        return ()
    names = dict.fromkeys(name.strip() for name in settings.model.split(",") if name.strip())
    return tuple(
        Endpoint(
            name=name,
            base_url=settings.openai_base_url,
            key=settings.openai_api_key,
            api=settings.api,
        )
        for name in names
    )


def proposers(asked: str, settings: "Settings") -> Proposers:
    """Who is to propose.

    Raises:
        UsageError: no such proposer.
        MissingError: models are asked for and none is configured.
    """
    if asked not in ("auto", "catalogue", "llm"):
        raise UsageError(f"unknown proposer {asked!r}: choose auto, catalogue or llm")
    if asked == "catalogue":
        return Proposers("catalogue", (), "proposals by the catalogue")
    found = endpoints(settings)
    if not found and asked == "llm":
        raise MissingError(f"no language model is configured: {HOW}")
    if not found:
        return Proposers(
            "catalogue", (), "proposals by the catalogue: no language model is configured"
        )
    names = ", ".join(endpoint.name for endpoint in found)
    beside = "" if asked == "llm" else " beside the catalogue"
    return Proposers(asked, found, f"proposals by {names} at {found[0].place}{beside}")
