"""The Triton kernels: equal to their twins in the interpreter, and compiled for real GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nightlab.kernels import spectra
from nightlab.kernels.spectra import reference

pytest.importorskip("triton")

INTERPRETED = """
import json, torch
from nightlab.kernels.spectra import reference, triton_syrk

def error(got, true):
    return float((got - true).norm() / true.norm())

rows = []
for dtype in (torch.float32, torch.bfloat16):
    for n, d in ((63, 100), (1, 7), (130, 65)):
        generator = torch.Generator().manual_seed(n)
        pre = (torch.randn(n, d, generator=generator) + 5).to(dtype)
        up = torch.randn(n, d, generator=generator).to(dtype)
        wide = torch.cat([up, pre], 1)[:, d:]
        got, true = triton_syrk.centered_syrk(wide), reference.centered_syrk(pre)
        scale = true.m2 if n > 1 else torch.ones(1)
        rows.append([f"syrk {n}x{d} {dtype}", float((got.m2 - true.m2).norm() / scale.norm()),
                     error(got.mean, true.mean)])
        for activation in reference.ACTIVATIONS if n == 63 else ("gelu",):
            for gate in (None, up):
                got = triton_syrk.ffn_pair_moments(wide, activation, gate)
                true = reference.ffn_pair_moments(pre, activation, gate)
                for side in ("pre", "post"):
                    g, t = getattr(got, side), getattr(true, side)
                    scale = t.m2 if n > 1 else torch.ones(1)
                    rows.append([f"{activation} {side} {gate is not None} {n}x{d} {dtype}",
                                 float((g.m2 - t.m2).norm() / scale.norm()), error(g.mean, t.mean)])
print(json.dumps(rows))
"""

COMPILED = """
import json, os, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from nightlab.kernels.spectra import triton_syrk as kernels

BIN = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")

def build(kernel, arch, types, consts, warps, stages):
    names = kernel.arg_names
    signature = {n: "constexpr" if n in consts else types.get(n, "i32") for n in names}
    aligned = [n for n in names if types.get(n, "").startswith("*") or n.startswith("stride")]
    source = ASTSource(fn=kernel, signature=signature,
                       constexprs={(names.index(n),): v for n, v in consts.items()},
                       attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned})
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)

def usage(built):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        show = lambda tool, *flags: subprocess.run(
            [os.path.join(BIN, tool), *flags, file.name], capture_output=True, text=True, check=True
        ).stdout
        report = show("cuobjdump", "-res-usage")
        code = show("nvdisasm")
    unit = next((name for name in ("HGMMA", "HMMA") if name in code), "none")
    registers, stack = re.search(r"REG:(\\d+) STACK:(\\d+)", report).groups()
    return {"registers": int(registers), "spilled": int(stack), "unit": unit,
            "shared": built.metadata.shared}

rows = []
for arch in (80, 90):
    for dtype in ("*bf16", "*fp32"):
        half = dtype == "*bf16"
        floats = ["shift", "parts", "sums", "shift_post", "parts_post", "sums_post"]
        types = {n: "*fp32" for n in floats} | {"x": dtype, "up": dtype}
        types |= {"tile_i": "*i32", "tile_j": "*i32"}
        consts = {"TILE": kernels.TILE, "CHUNK": kernels.CHUNK, "HALF": half}
        one = build(kernels.scatter_kernel, arch, types, consts, 4, 3)
        rows.append({"kernel": "syrk", "arch": arch, "half": half, **usage(one)})
        for activation in (4, 3):
            pair = build(kernels.pair_kernel, arch, types,
                         consts | {"ACTIVATION": activation, "GATED": True,
                                   "CHUNK": kernels.pair_chunk(half)},
                         kernels.pair_warps(half), 2)
            rows.append({"kernel": "pair", "arch": arch, "half": half, **usage(pair)})
print(json.dumps(rows))
"""


def run(script: str, cache: Path, **environment: str) -> list[list[object]]:
    """Run a script in a process of its own: Triton reads its mode when it is imported."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TRITON")}
    clean |= {"TRITON_CACHE_DIR": str(cache), "TRITON_DEFAULT_FP_FUSION": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, env=clean, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows: list[list[object]] = json.loads(done.stdout)
    return rows


def test_interpreted_kernels_equal_their_twins_at_sizes_no_tile_divides(tmp_path: Path) -> None:
    rows = run(INTERPRETED, tmp_path, TRITON_INTERPRET="1")
    assert len(rows) == 2 * (3 + 2 * 2 * (len(reference.ACTIVATIONS) + 2))
    wrong = [row for row in rows if not (float(str(row[1])) < 2e-6 and float(str(row[2])) < 2e-6)]
    assert wrong == []


@pytest.mark.slow
def test_kernels_compile_for_sm80_and_sm90_without_spills_and_use_the_tensor_cores(
    tmp_path: Path,
) -> None:
    rows = run(COMPILED, tmp_path)
    for row in rows:
        assert isinstance(row, dict)
        assert row["spilled"] == 0, row
        assert row["unit"] == ("HGMMA" if row["arch"] == 90 else "HMMA"), row
        assert row["shared"] < (227 if row["arch"] == 90 else 163) * 1024, row
    assert len(rows) == 12


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_the_torch_path_equals_its_twin(activation: reference.Activation, gated: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    pre = torch.randn(63, 520, generator=generator) + 2
    up: Tensor | None = torch.randn(63, 520, generator=generator) if gated else None
    got = spectra.ffn_pair_moments(pre, activation, up)
    true = reference.ffn_pair_moments(pre, activation, up)
    for g, t in zip(got, true, strict=True):
        assert g.n == t.n == 63
        torch.testing.assert_close(g.mean, t.mean)
        torch.testing.assert_close(g.m2, t.m2, rtol=1e-4, atol=1e-3)


def test_half_precision_tokens_are_accumulated_in_float32() -> None:
    x = torch.randn(300, 24, generator=torch.Generator().manual_seed(0)).bfloat16() + 8
    got = spectra.centered_syrk(x)
    exact = reference.centered_syrk(x.double())
    assert got.m2.dtype == torch.float32
    torch.testing.assert_close(got.m2.double(), exact.m2, rtol=1e-4, atol=1e-3)


def test_the_gram_matrix_is_that_of_centred_tokens() -> None:
    x = torch.randn(9, 40, generator=torch.Generator().manual_seed(0)) + 3
    y = x - x.mean(0)
    torch.testing.assert_close(spectra.gram(x), y @ y.T)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_equal_their_twins_on_a_gpu(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    pre = (torch.randn(1000, 321, generator=generator) + 3).to("cuda", dtype)
    tolerance = 5e-3 if dtype == torch.bfloat16 else 1e-4
    assert spectra.path(pre) == "triton"
    got, true = spectra.centered_syrk(pre), reference.centered_syrk(pre)
    assert float((got.m2 - true.m2).norm() / true.m2.norm()) < tolerance
    pair, twin = (
        f(pre, "gelu", pre) for f in (spectra.ffn_pair_moments, reference.ffn_pair_moments)
    )
    assert float((pair.post.m2 - twin.post.m2).norm() / twin.post.m2.norm()) < tolerance
