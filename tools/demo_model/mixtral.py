"""A compact Mixtral decoder for training: same mathematics and checkpoint names as the real one.

Invariant: `checkpoint_tensors` and the forward pass describe one function, so any loader of the
Hugging Face layout computes the same logits. Experts are kept stacked, which lets one product serve
the gate and up projections and lets the optimiser treat all experts as one batch.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (the name the field knows it by)
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder, named as in a Hugging Face `config.json`."""

    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    intermediate_size: int = 96
    max_position_embeddings: int = 4096
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    def as_config(self) -> dict[str, int | float]:
        """The fields as a plain dictionary, ready for `config.json`."""
        return asdict(self)


def rope_tables(shape: ModelShape, positions: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles.

    Args:
        shape: gives the head dimension and the base of the angles.
        positions: how many positions, from 0.

    Returns:
        Two `[positions, head_dim]` float32 tables, the second half repeating the first.

    Source: RoFormer (arXiv 2104.09864), section 3.2, in the half-split layout.
    """
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    angles = torch.outer(torch.arange(positions).float(), shape.rope_theta**-exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        queries = shape.num_attention_heads * shape.head_dim
        keys = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        heads = (batch, tokens, -1, self.shape.head_dim)
        q = self.q_proj(x).view(heads).transpose(1, 2)
        k = self.k_proj(x).view(heads).transpose(1, 2)
        v = self.v_proj(x).view(heads).transpose(1, 2)
        q, k = _rotate(q, cos, sin).to(v.dtype), _rotate(k, cos, sin).to(v.dtype)
        groups = self.shape.num_attention_heads // self.shape.num_key_value_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))  # type: ignore[no-any-return]


class SparseExperts(nn.Module):
    """A router and its experts: each token runs through its best `num_experts_per_tok` of them.

    Source: Mixtral of Experts (arXiv 2401.04088), section 2.1; the balance loss is the Switch
    Transformer's (arXiv 2101.03961), section 2.2, over the top-k assignments.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        experts, hidden, inner = (
            shape.num_local_experts,
            shape.hidden_size,
            shape.intermediate_size,
        )
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.w1_w3 = nn.Parameter(torch.empty(experts, 2, inner, hidden))
        self.w2 = nn.Parameter(torch.empty(experts, hidden, inner))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mix the chosen experts' outputs.

        Args:
            x: `[tokens, hidden]`.

        Returns:
            The output `[tokens, hidden]`, the balance loss (1 when even), and how many tokens
            each expert got `[experts]`.
        """
        chosen_per_token = self.shape.num_experts_per_tok
        scores = F.linear(x.float(), self.gate.weight.float()).softmax(dim=-1)
        weights, chosen = scores.topk(chosen_per_token, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        order = chosen.flatten().argsort()
        counts = torch.bincount(chosen.flatten(), minlength=self.shape.num_local_experts)
        rows = order // chosen_per_token
        mixed = self._experts(x.index_select(0, rows), counts.tolist())
        mixed = mixed * weights.flatten()[order].unsqueeze(1).to(mixed.dtype)
        out = torch.zeros_like(x).index_add(0, rows, mixed.to(x.dtype))
        shares = counts.float() / x.shape[0] / chosen_per_token
        balance = self.shape.num_local_experts * (shares * scores.mean(dim=0)).sum()
        return out, balance, counts

    def _experts(self, rows: Tensor, counts: list[int]) -> Tensor:
        parts = []
        for part, w1_w3, w2 in zip(torch.split(rows, counts), self.w1_w3, self.w2, strict=True):
            gate, up = F.linear(part, w1_w3.flatten(0, 1)).chunk(2, dim=-1)
            parts.append(F.linear(F.silu(gate) * up, w2))
        return torch.cat(parts)


class DecoderLayer(nn.Module):
    """Attention, then experts, each behind its norm and added to the residual stream."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.block_sparse_moe = SparseExperts(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        normed = self.post_attention_layernorm(x)
        mixed, balance, counts = self.block_sparse_moe(normed.flatten(0, 1))
        return x + mixed.view_as(x), balance, counts


class Mixtral(nn.Module):
    """The decoder; the output projection is the embedding itself."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        residual_scale = 1 / math.sqrt(2 * self.shape.num_hidden_layers)
        for name, weight in self.layers.named_parameters():
            if weight.ndim < 2:
                continue
            std = 0.5 / math.sqrt(weight.shape[-1])
            if name.endswith(("o_proj.weight", "w2")):
                std *= residual_scale
            nn.init.normal_(weight, std=std)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the decoder up to the last norm; `logits` makes logits of the result.

        Args:
            ids: `[batch, tokens]` int64.

        Returns:
            Hidden states `[batch, tokens, hidden]`, the mean balance loss of the layers, and the
            expert counts `[layers, experts]`.
        """
        x = self.embed_tokens(ids)
        cos, sin = rope_tables(self.shape, ids.shape[1])
        balances, counts = [], []
        for layer in self.layers:
            x, balance, count = layer(x, cos, sin)
            balances.append(balance)
            counts.append(count)
        return self.norm(x), torch.stack(balances).mean(), torch.stack(counts)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `[..., vocab]` of hidden states `[..., hidden]`."""
        return F.linear(hidden, self.embed_tokens.weight)

    def checkpoint_tensors(self) -> dict[str, Tensor]:
        """The weights under the names that MixtralForCausalLM has on disk; experts one by one."""
        tensors = {}
        for name, weight in self.state_dict().items():
            prefix, _, leaf = f"model.{name}".rpartition(".")
            if leaf == "w1_w3":
                for expert, (w1, w3) in enumerate(weight):
                    tensors[f"{prefix}.experts.{expert}.w1.weight"] = w1
                    tensors[f"{prefix}.experts.{expert}.w3.weight"] = w3
            elif leaf == "w2":
                for expert, w2 in enumerate(weight):
                    tensors[f"{prefix}.experts.{expert}.w2.weight"] = w2
            else:
                tensors[f"model.{name}"] = weight
        return tensors
