"""The shape of the repository: arrows between folders, the checker's map, what a wheel holds."""

import ast
import tomllib
import zipfile
from pathlib import Path
from subprocess import run
from sys import executable

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("agents", "sandbox", "kernels", "memory", "evals")
SHARED = {"nightlab.vocabulary", "nightlab.errors"}
ALLOWED = {
    "agents": {"agents", "sandbox", "evals", "memory"},
    "evals": {"evals", "kernels"},
    "sandbox": {"sandbox"},
    "memory": {"memory"},
    "kernels": {"kernels"},
}
DOORS = {
    "openai": {"agents/model.py"},
    "docker": {"sandbox/docker.py"},
    "pynvml": {"sandbox/gpu.py"},
    "ray": {"sandbox/ray.py"},
    "tokenizers": {"evals/bpe.py"},
    "datasets": {"evals/hugging_face_text.py"},
    "langgraph": {"agents/graph.py", "agents/campaign.py", "agents/nodes.py"},
}


PROGRAM_CODE = ROOT / "agents/catalogue/variants"
"""Source of program parts: read as text, never imported by the lab; it may use the kernels."""


def sources(folder: str) -> list[Path]:
    return [p for p in sorted((ROOT / folder).rglob("*.py")) if p.parent != PROGRAM_CODE]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_along_the_arrows(folder: str) -> None:
    for path in sources(folder):
        for module in imports(path):
            top, _, rest = module.partition(".")
            if top != "nightlab" or not rest:
                continue
            target = rest.partition(".")[0]
            if target in FOLDERS:
                inside = folder == "sandbox" and path.parent.name == "guest"
                assert target in ALLOWED[folder] | ({"kernels"} if inside else set()), (
                    f"{path.relative_to(ROOT)} imports {module}"
                )
            elif folder != "agents":
                named = ".".join(module.split(".")[:2])
                assert named in SHARED, f"{path} imports {module}"
                assert folder != "kernels", f"{path} imports {module}"


@pytest.mark.parametrize("library", DOORS)
def test_an_outside_library_has_one_door(library: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for folder in (*FOLDERS, "nightlab")
        for path in sources(folder)
        if any(module.split(".")[0] == library for module in imports(path))
    }
    assert users <= DOORS[library]


def test_only_memory_knows_sqlmodel() -> None:
    for folder in (*FOLDERS, "nightlab"):
        for path in sources(folder):
            if folder != "memory":
                assert not {"sqlmodel", "sqlalchemy"} & {m.split(".")[0] for m in imports(path)}


def test_the_checkers_map_shows_every_module() -> None:
    links = {path.name for path in (ROOT / "typings/nightlab").iterdir()}
    package = {path.name for path in (ROOT / "nightlab").iterdir() if path.name != "__pycache__"}
    assert links == package | set(FOLDERS)
    for link in (ROOT / "typings/nightlab").iterdir():
        assert link.is_symlink()
        assert link.resolve().exists()


def test_every_folder_of_code_is_packaged() -> None:
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {
        ".".join(("nightlab", *path.parent.relative_to(ROOT).parts))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    assert found | {"nightlab"} == listed


@pytest.mark.slow
def test_the_wheel_holds_the_data_files(tmp_path: Path) -> None:
    build = [executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    run([*build, "-w", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (
        "nightlab/py.typed",
        "nightlab/evals/tasks/byte_lm/task.toml",
        "nightlab/evals/tasks/gpt/task.toml",
        "nightlab/evals/scaffold/task.toml",
        "nightlab/evals/scaffold/train.py",
        "nightlab/memory/report/report.md.j2",
        "nightlab/sandbox/guest/worker.py",
    ):
        assert path in names
    assert not any(name.startswith(("agents/", "tests/", "nightlab/tests")) for name in names)
