"""The Triton kernels: equal to their twins in the interpreter, and compiled without spills."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
from nightlab.kernels.choice import explain
from nightlab.kernels.kv import compact_triton, ops, score_triton, select_triton

CHECK = Path(__file__).with_name("kv_interpreted.py")


def test_kernels_equal_their_twins_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, str(CHECK)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["select"] == found["gather"] == 0
    assert max(found["scores"], found["split"]) < 2e-6
    assert found["decode"] < 1e-5


def sizes(d: int, n: int, kind: str) -> Mapping[str, int]:
    dtype = torch.float32 if kind == "fp32" else torch.bfloat16
    return {
        "d": d,
        "BLOCK_N": n,
        "BLOCK_T": score_triton.block_keys(dtype),
        "BLOCK_D": 64 if d <= 64 else 128,
    }


def kernels(d: int, n: int, kind: str) -> list[tuple[object, dict[str, str], dict[str, int]]]:
    """Kernel, argument types and constants of every kernel at one size."""
    p, ints = f"*{kind}", dict.fromkeys(("n", "m", "T", "splits", "heads", "group"), "i32")
    size = sizes(d, n, kind)
    narrow = {k: v for k, v in size.items() if k != "BLOCK_N"}
    lse = {"q_ptr": p, "k_ptr": p, "own_ptr": p, "lse_ptr": "*fp32", **ints, "scale": "fp32"}
    column = {"q_ptr": p, "k_ptr": p, "lse_ptr": "*fp32", "out_ptr": "*fp32"}
    column |= {"n": "i32", "T": "i32", "scale": "fp32"}
    gather = {"k_ptr": p, "v_ptr": p, "index_ptr": "*i64", "start_ptr": "*i64"}
    gather |= {"k_out_ptr": p, "v_out_ptr": p, "pos_ptr": "*i32", "T": "i32"}
    decode = {"q_ptr": p, "k_ptr": p, "v_ptr": p, "start_ptr": "*i64", "tail_k_ptr": p}
    decode |= {
        "tail_v_ptr": p,
        "out_ptr": p,
        "t_tail": "i32",
        "tail_stride": "i32",
        "scale": "fp32",
    }
    reductions = {"group": 4, "reduce_group": 0, "reduce_rows": 0}
    rows = {"d": d, "BLOCK_R": compact_triton.BLOCK_R, "BLOCK_D": size["BLOCK_D"]}
    return [
        (score_triton.row_lse_kernel, lse, {**size, "SPLIT": score_triton.SPLIT}),
        (score_triton.column_kernel, column, {**size, **reductions}),
        (compact_triton.gather_kernel, gather, rows),
        (compact_triton.decode_kernel, decode, {**narrow, "group": 4, "BLOCK_M": 16}),
    ]


SELECT = {"s_ptr": "*fp32", "length_ptr": "*i64", "start_ptr": "*i64", "index_ptr": "*i64"}
SELECT |= {"T": "i32", "sinks": "i32", "recent": "i32"}


def stack_bytes(
    kernel: object, types: dict[str, str], constants: dict[str, int], arch: int, folder: Path
) -> int:
    """Stack of the compiled kernel: 0 when every value stayed in a register."""
    import triton  # type: ignore[import-untyped]
    from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]
    from triton.compiler import ASTSource  # type: ignore[import-untyped]

    names: list[str] = kernel.arg_names  # type: ignore[attr-defined]
    signature = {name: types.get(name, "constexpr") for name in names}
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs, None)
    built = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4})
    spec = importlib.util.find_spec("triton")
    assert spec is not None
    assert spec.origin is not None
    tool = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        pytest.skip("this triton ships no cuobjdump to read resource usage with")
    binary = folder / "kernel.cubin"
    binary.write_bytes(built.asm["cubin"])
    done = subprocess.run([tool, "-res-usage", binary], capture_output=True, check=True)
    usage = re.search(rb"STACK:(\d+)", done.stdout)
    assert usage is not None, done.stdout
    return int(usage.group(1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("kind", ["bf16", "fp32"])
def test_every_kernel_compiles_without_spills(arch: int, kind: str, tmp_path: Path) -> None:
    cases = [*kernels(128, 64, kind), *kernels(80, 32, kind)[:2]]
    if kind == "fp32":
        cases.append(
            (select_triton.select_kernel, SELECT, {"pool": 7, "BLOCK": select_triton.BLOCK})
        )
    spilled = {
        f"{getattr(kernel, '__name__', kernel)} {constants}": stack
        for kernel, types, constants in cases
        if (stack := stack_bytes(kernel, types, constants, arch, tmp_path)) > 0
    }
    assert spilled == {}


def test_the_path_taken_is_recorded() -> None:
    ops.select_rows(torch.rand(1, 1, 5), torch.full((1, 1), 2))
    assert [c.path for c in explain("kv.select_rows")] == ["reference"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_kernels_equal_their_twins() -> None:
    from nightlab.kernels.kv import compact, scores, selection

    q, k = torch.randn(2, 8, 32, 128).cuda(), torch.randn(2, 2, 1111, 128).cuda()
    own = torch.randn(2, 2, 32, 128).cuda()
    s = ops.lookahead_scores(q, k, own)
    torch.testing.assert_close(s, scores.lookahead_scores(q, k, own), rtol=1e-3, atol=1e-5)
    lengths = torch.tensor([[7, 1111], [300, 64]]).cuda()
    ours = ops.select_rows(s, lengths, sinks=4, recent=8, pool=7)
    twin = selection.select_rows(s, lengths, sinks=4, recent=8, pool=7)
    assert torch.equal(ours.index, twin.index)
    kept = ops.gather_rows(k, k, ours.index, lengths)
    assert torch.equal(kept.k, compact.gather_rows(k, k, twin.index, lengths).k)
    with torch.no_grad():
        out = ops.cached_attention(q[:, :, :1], kept, own, own)
    torch.testing.assert_close(
        out, compact.compact_attention(q[:, :, :1], kept, own, own), rtol=1e-3, atol=1e-4
    )
