"""The Triton kernels: values by the interpreter on tiny grids, code by compiling for real GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from nightlab.kernels.index_cache.compiled import Build, builds, compile_build, table


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    """Largest error of every comparison, from one interpreter process."""
    program = Path(__file__).with_name("index_cache_interpreted.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_every_kernel_equals_its_specification_in_the_interpreter(errors: dict[str, float]) -> None:
    assert {name.split()[0] for name in errors} == {
        "token", "padded", "block", "indexer", "topk", "blocks", "selected", "decode", "bf16",
    }  # fmt: skip
    assert {name: e for name, e in errors.items() if not name.startswith("bf16") and e > 1e-5} == {}


def test_bf16_reaches_the_interpreters_dot_only_after_a_cast(errors: dict[str, float]) -> None:
    assert errors["bf16 out"] < 0.03


SMALL = [build for build in builds() if build.name in ("block_dkv 64x64 D64", "topk radix BN2048")]


@pytest.mark.parametrize("build", SMALL, ids=lambda build: build.name)
def test_a_kernel_of_each_sort_compiles_for_sm_90_without_spills(build: Build) -> None:
    compiled = compile_build(build, 90)
    assert compiled.holds, table([compiled])


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
def test_every_kernel_and_configuration_compiles_without_spills(arch: int) -> None:
    rows = [compile_build(build, arch) for build in builds()]
    print("\n" + table(rows))
    assert len(rows) >= 28
    assert [row for row in rows if not row.holds] == [], table(rows)
