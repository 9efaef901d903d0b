"""The operations of `kernels.ops`, made fast on a CPU with plain PyTorch.

Invariant: float32, bfloat16 and float16 only; what is shared by all layers of a step is worked
out once, in `plan_attention` and `rope_angles`.
"""

from kernels.cpu.attention import attention, plan_attention
from kernels.cpu.experts import moe, pack_experts
from kernels.cpu.linear import pack_linear
from kernels.cpu.rows import embedding, norm_heads, rms_norm, rope, rope_angles, silu_mul, store_kv
from kernels.eager import capture, gated, take_rows

__all__ = [
    "attention",
    "capture",
    "embedding",
    "moe",
    "norm_heads",
    "pack_experts",
    "pack_gated",
    "pack_linear",
    "plan_attention",
    "rms_norm",
    "rope",
    "rope_angles",
    "silu_mul",
    "store_kv",
    "take_rows",
]

pack_gated = gated(pack_linear, silu_mul)
