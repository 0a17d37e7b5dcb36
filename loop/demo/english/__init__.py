"""The demo in English: real instructions, real answers of models with their verdicts, a real student."""
