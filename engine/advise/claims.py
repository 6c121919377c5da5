"""What is true about speed, with what it rests on: a table that the Advisor's reasons draw from."""

from __future__ import annotations

from dataclasses import dataclass

PREDICTED = "predicted"
CORE = "ComfyUI does this already"


@dataclass(frozen=True)
class Claim:
    """One sentence; `basis`: PREDICTED, CORE or the name of a file in benchmarks/results."""

    topic: str
    says: str
    basis: str


_HOST = "2026-11-26-host-cpu.json"
_STEP = "2026-11-26-step-cpu.json"

CLAIMS = {
    claim.topic: claim
    for claim in (
        Claim(
            "8 bits on tensor cores",
            "Weights and activations in 8 bits on tensor cores save memory and time.",
            PREDICTED,
        ),
        Claim(
            "weight-only",
            "Codes that become 16 bits before they are multiplied save memory, not time.",
            PREDICTED,
        ),
        Claim(
            "int8 with few tokens",
            "On a card int8 is slower than 16 bits with few tokens: quantizing the activations "
            "costs more than the product saves.",
            PREDICTED,
        ),
        Claim(
            "8 bits on a CPU",
            "On a CPU with AVX2 a step in int8 takes about two thirds of the time of one in fp32, "
            "a step in fp8 about as long as in fp32, and 8-bit weights a quarter of the memory; "
            "ComfyUI's own int8 code takes over 8 times as long.",
            _STEP,
        ),
        Claim(
            "compile",
            "torch.compile joins what quantizing adds around each product; its first step takes "
            "long, and each new size compiles again.",
            PREDICTED,
        ),
        Claim(
            "flash attention",
            "torch's flash attention is exact, and ComfyUI uses it where the device has it.",
            CORE,
        ),
        Claim(
            "sage attention",
            "Sage attention rounds queries and keys to int8: it pays where attention is most of "
            "the work, in video, and its result is not exact.",
            PREDICTED,
        ),
        Claim(
            "TF32",
            "TF32 makes float32 products faster and no others: bf16 and fp16 models gain nothing.",
            PREDICTED,
        ),
        Claim(
            "non-blocking copies",
            "Streamed weights are copied on their own streams beside computing, on NVIDIA without "
            "any setting.",
            CORE,
        ),
        Claim(
            "KV reuse",
            "Keys and values of reference pictures are kept over the steps in the models that are "
            "made for it; in all others they change with every step.",
            CORE,
        ),
        Claim(
            "Live LoRA",
            "A new strength takes 0.08 s (int8) or 0.09 s (fp8) with Live LoRA, where a stock LoRA "
            "loader after quantizing takes 34 s (int8) or 95 s (fp8) on a CPU with a 4 GiB model.",
            _HOST,
        ),
    )
}


def rows() -> list[tuple[str, str, str]]:
    """(topic, sentence, basis) of every claim."""
    return [(claim.topic, claim.says, claim.basis) for claim in CLAIMS.values()]
