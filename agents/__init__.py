"""The two language models and their trainer: teacher, student, LoRA, and the formulas between them.

The only folder that imports torch, transformers and peft. It knows records, config and errors of
`state`, but neither SQL nor the machine that calls it.
"""
