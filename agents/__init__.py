"""The language models: teacher, student, LoRA, and the formulas between them. The only place for torch."""
