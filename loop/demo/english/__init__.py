"""The demo in English: real instructions, real answers of models with their verdicts, a real student."""

__all__ = ["MODEL", "ROUNDS"]

# What it is unless it is told otherwise. A second proposal is all that there are.
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
ROUNDS = 2
