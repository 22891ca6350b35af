"""Every Triton kernel and configuration, compiled ahead of time for a GPU that need not be there.

Proves code generation only: registers, spills, shared memory and the matrix instruction.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nightlab.kernels.index_cache import tiles
from nightlab.kernels.index_cache.tiles import Launch

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory a block may use, by compute capability."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """One kernel in one configuration, before it is compiled."""

    name: str
    """Kernel and configuration, as in the table."""
    kernel: Any
    types: Mapping[str, str]
    """Argument name to Triton type; names that are missing are ``i32``."""
    consts: Mapping[str, object]
    launch: Launch
    tensor_core: bool = True
    """Whether the kernel multiplies matrices; the radix top-k and the ordered dK/dV do not."""
    wgmma: bool = False
    """Whether the warp-group instruction of sm_90 is expected, which needs tiles of 64 rows."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What came of one build."""

    name: str
    arch: int
    registers: int
    spills: int
    """Bytes stored to and loaded from local memory because registers ran out."""
    shared: int
    """Bytes of shared memory."""
    instruction: str
    """``wgmma``, ``mma.sync`` or ``-``."""
    expected: str

    @property
    def holds(self) -> bool:
        """No spills, shared memory under the limit, and the expected instruction."""
        return (
            self.spills == 0
            and self.shared <= SHARED_LIMIT[self.arch]
            and self.instruction == self.expected
        )


def builds() -> Iterator[Build]:
    """All kernels, in the configurations that ``triton_path`` launches, with bf16 inputs."""
    yield from _indexer_builds()
    yield from _token_builds()
    yield from _block_builds()


_B, _F, _I = "*bf16", "*fp32", "*i32"


def _indexer_builds() -> Iterator[Build]:
    from nightlab.kernels.index_cache import triton_indexer, triton_topk

    scored = {"q_ptr": _B, "k_ptr": _B, "w_ptr": _F, "out_ptr": _F}
    for heads, width in ((8, 32), (64, 128)):
        bm, bn = tiles.logits_tile(heads, width)
        shape = {"HEADS": heads, "WIDTH": width, "WIDTH_P": width, "RELU": True, "UP": False}
        label = f"H{heads} d{width}"
        yield Build(
            name=f"indexer_logits {label} {bm}x{bn}", kernel=triton_indexer.indexer_logits_kernel,
            types=scored, consts={**shape, "BM": bm, "BN": bn}, launch=tiles.LOGITS, wgmma=True,
        )  # fmt: skip
        yield Build(
            name=f"block_scores {label} 64x64", kernel=triton_indexer.block_scores_kernel,
            types={**scored, "position_ptr": _I}, consts={**shape, "BM": 64, "BN": 64},
            launch=tiles.BLOCK_SCORES, wgmma=True,
        )  # fmt: skip
        picked = {**shape, "HEADS_P": max(16, heads)}
        yield Build(
            name=f"selected_logits {label}", kernel=triton_indexer.selected_logits_kernel,
            types={**scored, "index_ptr": _I}, consts={**picked, "BK": tiles.SLOTS},
            launch=tiles.SELECTED, wgmma=heads >= 64,
        )  # fmt: skip
        grads = {"grad_ptr": _F, "dq_ptr": _B, "dk_ptr": _F, "dw_ptr": _F, "index_ptr": _I}
        yield Build(
            name=f"selected_logits_bwd {label}", kernel=triton_indexer.selected_logits_bwd_kernel,
            types={**scored, **grads}, consts={**picked, "BK": tiles.SLOTS_BACKWARD},
            launch=tiles.SELECTED_BACKWARD, wgmma=heads >= 64,
        )  # fmt: skip
    yield Build(
        name="topk radix BN2048", kernel=triton_topk.topk_kernel,
        types={"logits_ptr": _F, "out_ptr": _I}, consts={"BN": tiles.TOPK_COLUMNS},
        launch=tiles.TOPK, tensor_core=False,
    )  # fmt: skip


_QKV = {"q_ptr": _B, "k_ptr": _B, "v_ptr": _B, "index_ptr": _I, "lse_ptr": _F, "scale": "fp32"}
_GRADS = {**_QKV, "do_ptr": _B, "delta_ptr": _F, "dq_ptr": _B, "dk_ptr": _F, "dv_ptr": _F}


def _token_builds() -> Iterator[Build]:
    from nightlab.kernels.index_cache import triton_decode, triton_token

    for group, width in ((8, 64), (64, 128)):
        padded = max(16, group)
        full: dict[str, object] = {
            "KV": 1, "G": group, "G_P": padded, "D": width, "D_P": width, "DV": width,
            "DV_P": width, "UP": False,
        }  # fmt: skip
        label, wide = f"G{group} D{width}", group >= 64
        yield Build(
            name=f"token_forward {label}", kernel=triton_token.token_forward_kernel,
            types={**_QKV, "out_ptr": _B}, consts={**full, "BK": tiles.SLOTS},
            launch=tiles.token(padded, 2), wgmma=wide,
        )  # fmt: skip
        for atomic in (True, False):
            yield Build(
                name=f"token_backward {label}{'' if atomic else ' dq only'}",
                kernel=triton_token.token_backward_kernel, types=_GRADS,
                consts={**full, "BK": tiles.SLOTS_BACKWARD, "ATOMIC": atomic},
                launch=tiles.token(padded, 1), wgmma=wide,
            )  # fmt: skip
        target: Mapping[str, object] = {
            name: full[name] for name in ("KV", "G", "G_P", "D", "D_P", "UP")
        }
        yield Build(
            name=f"token_target {label}", kernel=triton_token.token_target_kernel,
            types={**_QKV, "target_ptr": _F}, consts={**target, "BK": tiles.SLOTS},
            launch=tiles.TARGET, wgmma=wide,
        )  # fmt: skip
        ordered = {name: value for name, value in full.items() if name not in ("G_P", "UP")}
        yield Build(
            name=f"token_dkv ordered {label}", kernel=triton_token.token_dkv_kernel,
            types={**_GRADS, "offsets_ptr": _I, "rows_ptr": _I},
            consts={**ordered, "BT": tiles.ORDERED_QUERIES}, launch=tiles.ORDERED_DKV,
            tensor_core=False,
        )  # fmt: skip
        yield Build(
            name=f"decode {label}", kernel=triton_decode.decode_kernel,
            types={**_QKV, "out_ptr": _F}, consts={**full, "BK": tiles.SLOTS}, launch=tiles.DECODE,
            wgmma=wide,
        )  # fmt: skip


def _block_builds() -> Iterator[Build]:
    from nightlab.kernels.index_cache import triton_block

    for width in (64, 128):
        full: dict[str, object] = {
            "G": 1, "D": width, "D_P": width, "DV": width, "DV_P": width, "UP": False,
            "BQ": 64, "BK": 64,
        }  # fmt: skip
        heads = {**full, "HEADS": 8}
        yield Build(
            name=f"block_forward 64x64 D{width}", kernel=triton_block.block_forward_kernel,
            types={**_QKV, "out_ptr": _B}, consts=heads, launch=tiles.block(width, 2), wgmma=True,
        )  # fmt: skip
        yield Build(
            name=f"block_dq 64x64 D{width}", kernel=triton_block.block_dq_kernel, types=_GRADS,
            consts=heads, launch=tiles.block(width, 1), wgmma=True,
        )  # fmt: skip
        yield Build(
            name=f"block_dkv 64x64 D{width}", kernel=triton_block.block_dkv_kernel,
            types={**_GRADS, "offsets_ptr": _I, "rows_ptr": _I, "dk_ptr": _B, "dv_ptr": _B},
            consts={**full, "KV": 8}, launch=tiles.BLOCK_DKV, wgmma=True,
        )  # fmt: skip
        target = {name: heads[name] for name in ("HEADS", "G", "D", "D_P", "UP", "BQ", "BK")}
        yield Build(
            name=f"block_target 64x64 D{width}", kernel=triton_block.block_target_kernel,
            types={**_QKV, "target_ptr": _F}, consts=target, launch=tiles.TARGET, wgmma=True,
        )  # fmt: skip


def compile_build(build: Build, arch: int) -> Compiled:
    """Compile for compute capability ``arch`` (80 or 90). RuntimeError inside the interpreter."""
    import triton  # type: ignore[import-untyped]
    from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]
    from triton.compiler import ASTSource  # type: ignore[import-untyped]

    if triton.knobs.runtime.interpret:
        raise RuntimeError("kernels defined under TRITON_INTERPRET=1 cannot be compiled")
    names = build.kernel.arg_names
    types = {name: build.types.get(name, "i32") for name in names}
    pointers = [name for name in names if types[name].startswith("*")]
    source = ASTSource(
        fn=build.kernel,
        signature={name: "constexpr" if name in build.consts else types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in build.consts.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in pointers},
    )
    options = {**build.launch, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    ptx = made.asm["ptx"]
    registers, spills = _resources(ptx, arch)
    found = "wgmma" if "wgmma.mma" in ptx else "mma.sync" if "mma.sync" in ptx else "-"
    expected = "-" if not build.tensor_core else "mma.sync"
    return Compiled(
        name=build.name,
        arch=arch,
        registers=registers,
        spills=spills,
        shared=made.metadata.shared,
        instruction=found,
        expected="wgmma" if build.wgmma and arch >= 90 else expected,
    )


def _resources(ptx: str, arch: int) -> tuple[int, int]:
    """Registers a thread and spilled bytes, from the report of the wheel's own ptxas."""
    from triton.backends.nvidia.compiler import get_ptxas  # type: ignore[import-untyped]

    tool = get_ptxas(arch).path
    name = "sm_90a" if arch == 90 else f"sm_{arch}"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [tool, "-v", f"--gpu-name={name}", file.name, "-o", "/dev/null"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = sum(int(size) for size in re.findall(r"(\d+) bytes spill", report))
    registers = re.search(r"Used (\d+) registers", report)
    return int(registers.group(1)) if registers else 0, spills


def table(rows: list[Compiled]) -> str:
    """The builds as lines of text."""
    lines = [f"{'kernel':42} {'arch':>6} {'regs':>5} {'spills':>7} {'smem':>9} {'MMA':>9}"]
    lines += [
        f"{row.name:42} sm_{row.arch:<3} {row.registers:>5} {row.spills:>7} {row.shared:>7} B "
        f"{row.instruction:>9}{'' if row.holds else '  <- expected ' + row.expected}"
        for row in rows
    ]
    return "\n".join(lines)
