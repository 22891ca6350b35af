"""Settings come from the environment once, and are wrong in one line."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from nightlab.errors import MissingError
from nightlab.settings import Settings

NAMES = (
    "NIGHTLAB_HOME",
    "NIGHTLAB_DATABASE_URL",
    "NIGHTLAB_MODEL",
    "OPENAI_BASE_URL",
    "OPENAI_API_KEY",
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_everything_lives_under_the_home_by_default(tmp_path: Path) -> None:
    settings = Settings.load()
    folder = tmp_path / ".nightlab"
    assert settings.folder == folder
    assert settings.ledger_url == f"sqlite:///{folder / 'ledger.db'}"
    assert settings.checkpoints == folder / "checkpoints.db"
    assert settings.artifacts == folder / "artifacts"
    assert settings.reports == folder / "reports"
    assert (settings.model, settings.openai_base_url, settings.openai_api_key) == (None,) * 3


def test_the_environment_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = ("~/lab", "postgresql://db/lab", "small-model", "http://localhost:1/v1", "sk-secret")
    for name, value in zip(NAMES, values, strict=True):
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert settings.folder == tmp_path / "lab"
    assert settings.ledger_url == "postgresql://db/lab"
    assert settings.model == "small-model"
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "sk-secret"
    assert "sk-secret" not in repr(settings)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTLAB_DATABASE_URL", "")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    settings = Settings.load()
    assert settings.ledger_url.startswith("sqlite:///")
    assert settings.openai_api_key is None


def test_a_home_that_cannot_be_written_is_one_line_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NIGHTLAB_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(MissingError, match=r"^cannot write to .*: set NIGHTLAB_HOME to a folder"):
        Settings.load()


def test_settings_cannot_be_changed() -> None:
    settings = Settings.load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.model = "another"


def test_settings_stay_few() -> None:
    assert len(Settings.model_fields) <= 12
