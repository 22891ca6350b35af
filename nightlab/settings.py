"""What a person sets by environment: read once, at the edge, into one frozen value."""

from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from nightlab.errors import MissingError, UsageError


class Settings(BaseSettings):
    """Where state lives and which language model to ask."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    home: Path = Field(default=Path("~/.nightlab"), validation_alias="NIGHTLAB_HOME")
    """Folder of all state; see the properties below for what is in it."""
    database_url: str | None = Field(default=None, validation_alias="NIGHTLAB_DATABASE_URL")
    """Where the ledger is, in SQLAlchemy's form; None for a file in ``home``."""
    model: str | None = Field(default=None, validation_alias="NIGHTLAB_MODEL")
    """Names of the language models that propose, with commas between; None for no model."""
    embedder: str | None = Field(default=None, validation_alias="NIGHTLAB_EMBEDDER")
    """Name of an embedding model at the same place, which finds near-duplicates; None for none."""
    openai_base_url: str | None = Field(default=None, validation_alias="OPENAI_BASE_URL")
    """Address of an OpenAI-compatible server; None for OpenAI's own."""
    openai_api_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_API_KEY")
    """Without a key and without a base URL nothing ever asks a model."""
    api: Literal["auto", "responses", "chat"] = Field(
        default="auto", validation_alias="NIGHTLAB_API"
    )
    """How the server is asked; ``auto`` is Responses for OpenAI, Chat Completions for others."""

    @classmethod
    def load(cls) -> Self:
        """Settings from the environment.

        Raises UsageError for a value that cannot be read, MissingError when ``home`` is unwritable.
        """
        try:
            settings = cls()
        except ValidationError as cause:
            first = cause.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise UsageError(f"{name} cannot be used: {first['msg']}") from cause
        settings._check_home()
        return settings

    @property
    def folder(self) -> Path:
        """``home`` as an absolute path."""
        return self.home.expanduser().absolute()

    @property
    def ledger_url(self) -> str:
        """The ledger's database."""
        return self.database_url or f"sqlite:///{self.folder / 'ledger.db'}"

    @property
    def checkpoints(self) -> Path:
        """The graph's checkpoints, in a file of their own."""
        return self.folder / "checkpoints.db"

    @property
    def artifacts(self) -> Path:
        """Files by their content."""
        return self.folder / "artifacts"

    @property
    def reports(self) -> Path:
        """One folder per campaign."""
        return self.folder / "reports"

    def _check_home(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.folder):
                pass
        except OSError as cause:
            raise MissingError(
                f"cannot write to {self.folder} ({cause.strerror}): "
                "set NIGHTLAB_HOME to a folder that you own"
            ) from cause
