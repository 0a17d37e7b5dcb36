"""The student: its scores, its LoRA refinetune, its held-out measures."""
